//! On the real kernel, in network namespaces that each test makes: a host, a second
//! machine beside it, and containers. The machine's own network is never touched.

mod cni;
mod dns;
mod firewall;
mod links;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::firewall::{Firewall, Plan, Port, Published, forget_flows};
use super::host::{Endpoint, Host};
use super::ipam::{Lease, Leases, Wish};
use super::link::{Join, Links};
use super::spec::NetworkSpec;
use super::{Instance, netns};
use crate::manifest::publish::Protocol;
use crate::sys::userns::{IdRange, userns_and_netns};

/// Runs a test on a thread in a new network namespace: the host of the test.
fn on_a_host(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut links = Links::open().unwrap();
            let lo = links.find("lo").unwrap().unwrap();
            links.up(lo.index, "lo", None).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A namespace as a container's is: owned by a user namespace of its own.
fn container_netns() -> OwnedFd {
    userns_and_netns(IdRange { first: 0x7000_0000, count: 65536 }).unwrap().1
}

fn within<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::inside(netns.as_fd(), || Ok(work())).unwrap()
}

const HOST4: &str = "192.0.2.1";
const HOST6: &str = "2001:db8::1";
const OUTSIDE4: &str = "192.0.2.9";
const OUTSIDE6: &str = "2001:db8::9";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A second machine, joined to the host's `uplink`.
fn outside() -> OwnedFd {
    let netns = container_netns();
    let mut links = Links::open().unwrap();
    links.ensure_bridge("uplink", "02:00:00:00:00:01".parse().unwrap(), None).unwrap();
    let join = Join::Port { host_end: "up0", bridge: "uplink", isolated: false };
    links.join(netns.as_fd(), "eth0", "02:00:00:00:00:09".parse().unwrap(), None, join).unwrap();
    links.add_address("uplink", ip(HOST4), 24).unwrap();
    links.add_address("uplink", ip(HOST6), 64).unwrap();
    within(&netns, || {
        let mut links = Links::open().unwrap();
        links.add_address("eth0", ip(OUTSIDE4), 24).unwrap();
        links.add_address("eth0", ip(OUTSIDE6), 64).unwrap();
        let index = links.find("eth0").unwrap().unwrap().index;
        links.up(index, "eth0", None).unwrap();
    });
    netns
}

/// A Berth on the test's host, with its networks and containers.
struct World {
    host: Host,
    firewall: Firewall,
    plan: Plan,
    leases: Leases,
}

impl World {
    fn new() -> World {
        let instance = Instance::of_root("/test");
        let mut host = Host::open(instance.clone()).unwrap();
        let admission = Some(host.ensure_admission().unwrap());
        World {
            host,
            firewall: Firewall::open().unwrap(),
            plan: Plan {
                instance,
                networks: Vec::new(),
                ports: Vec::new(),
                published: Vec::new(),
                admission,
            },
            leases: Leases::default(),
        }
    }

    fn network(&mut self, name: &str, number: u8) -> NetworkSpec {
        let spec = NetworkSpec::bridge(
            name,
            format!("10.70.{number}.0/24").parse().unwrap(),
            Some(format!("fd70:{number}::/64").parse().unwrap()),
        );
        self.add(spec)
    }

    fn add(&mut self, spec: NetworkSpec) -> NetworkSpec {
        self.host.ensure(&spec).unwrap();
        self.plan.networks.push(spec.clone());
        self.firewall.apply(&self.plan).unwrap();
        spec
    }

    fn container(&mut self, network: &NetworkSpec, name: &str) -> (OwnedFd, Lease) {
        let netns = container_netns();
        let lease = self
            .leases
            .lease(self.host.instance(), network, name, Wish::default(), &BTreeSet::new())
            .unwrap();
        let endpoint = Endpoint {
            container: name,
            interface: "eth0",
            lease,
            link_local: &[],
            is_default_route: true,
        };
        self.host.attach(network, &endpoint, netns.as_fd()).unwrap();
        let host_end = self.host.instance().port(name, &network.name);
        self.plan.ports.push(Port { host_end, lease });
        self.firewall.apply(&self.plan).unwrap();
        (netns, lease)
    }

    fn publish(
        &mut self,
        host: Option<IpAddr>,
        port: u16,
        to: Lease,
        to_port: u16,
        protocol: Protocol,
    ) {
        let one = Published { host, port, protocol, to, to_port, bypass: false };
        self.plan.published.push(one);
        self.firewall.apply(&self.plan).unwrap();
        forget_flows(&self.plan);
    }
}

/// A server that answers each connection with the client's address.
fn serve_tcp(netns: &OwnedFd, port: u16) {
    let listener = within(netns, || {
        TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))).unwrap()
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
                let _ = stream.write_all(format!("{}\n", peer.unwrap_or_default()).as_bytes());
                let mut bytes = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn serve_udp(netns: &OwnedFd, port: u16) {
    let socket = within(netns, || UdpSocket::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            if &bytes[..length] == b"stop" {
                return;
            }
            let _ = socket.send_to(from.ip().to_canonical().to_string().as_bytes(), from);
        }
    });
}

/// Longer than a lost first packet needs to be sent again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Connects from the calling thread's network; gives the address that the server saw.
fn tcp(to: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip(to), port), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    read_line(&mut stream)
}

fn read_line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).ok().filter(|line| !line.is_empty())
}

/// The same with datagrams, tried twice: the first may be lost while a neighbour is
/// asked for.
fn udp(to: &str, port: u16) -> Option<String> {
    let any = if ip(to).is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((ip(to), port)).ok()?;
    for _ in 0..2 {
        let _ = socket.send(b"hello");
        let mut bytes = [0; 128];
        if let Ok(length) = socket.recv(&mut bytes) {
            return String::from_utf8(bytes[..length].to_vec()).ok();
        }
    }
    None
}

/// What an administrator would do by hand.
fn nft(text: &str) {
    use std::process::{Command, Stdio};
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// What a hostile container's root would do by hand, had it the right.
fn ip_command(words: &[&str]) {
    assert!(std::process::Command::new("ip").args(words).status().unwrap().success(), "{words:?}");
}
