use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::network::dns::{Names, Sockets, Upstream, Zone, serve};

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// A container asks the gateway by UDP and TCP, while another sends garbage.
#[test]
fn a_container_looks_names_up_at_its_gateway() {
    on_a_host(|| {
        let mut world = World::new();
        let net = world.network("back", 1);
        let (a, _) = world.container(&net, "a");
        let (zones, zone) = tokio::sync::watch::channel(Arc::new(Zone::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gateway = SocketAddr::new(ip("10.70.1.1"), 53);
        let sockets = runtime.block_on(Sockets::bind(gateway)).unwrap();
        let mut names = Names::default();
        names.add("db", ip("10.70.1.77"));
        let names = Arc::new(names);
        zones.send_replace(Arc::new(Zone { names, outside: true, ..Zone::default() }));
        let nobody = Arc::new(Upstream::of_file("/dev/null"));
        std::thread::scope(|scope| {
            let stop = tokio::sync::oneshot::channel::<()>();
            let runtime = &runtime;
            let server = scope.spawn(move || {
                runtime.block_on(async {
                    tokio::select! { () = serve(sockets, zone, nobody, None) => {} _ = stop.1 => {} }
                });
            });
            within(&a, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(gateway).unwrap();
                let ask = |bytes: &[u8]| {
                    socket.send(bytes).unwrap();
                    let mut reply = [0; 512];
                    let length = socket.recv(&mut reply).unwrap();
                    Message::from_vec(&reply[..length]).unwrap()
                };
                socket.send(&[0xff; 300]).unwrap();
                socket.send(b"").unwrap();
                assert_eq!(ask(&query("db.")).answers[0].data.to_string(), "10.70.1.77");
                // Nobody to be asked: a failure at once, not silence.
                let code = ask(&query("example.org.")).metadata.response_code;
                assert_eq!(code, ResponseCode::ServFail);
                let mut stream = TcpStream::connect_timeout(&gateway, PATIENCE).unwrap();
                let bytes = query("db.");
                stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut reply).unwrap();
                assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 1);
                let began = std::time::Instant::now();
                for _ in 0..2000 {
                    ask(&bytes);
                }
                println!("{:.0} queries a second", 2000.0 / began.elapsed().as_secs_f64());
            });
            let _ = stop.0.send(());
            server.join().unwrap();
        });
    });
}
