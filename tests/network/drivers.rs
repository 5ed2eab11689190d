//! Networks that are no bridge of ours.

use super::*;

#[test]
fn a_namespace_of_somebody_else_and_a_macvlan_are_joined() {
    let host = Machine::new();
    let outside = host.neighbour();
    let other = Machine::new();
    other.ok("ip link add only0 type bridge");
    let mode = format!("{IDLE}[network]\nmode = \"ns:{}\"\n", other.path().display());
    let lan = "driver = \"macvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\ngateway = \"10.77.0.2\"\n";
    let berth = berth_on(
        &host,
        &[
            ("joined.toml", &mode),
            ("lan.network.toml", lan),
            ("onlan.toml", &web("networks = [\"lan\"]\nip = \"10.77.0.50\"")),
        ],
    );
    let links = berth.ok(&["exec", "joined", "ip", "-br", "link"]);
    assert!(links.contains("only0"), "{links}");
    berth.wait("the page on the LAN", || outside.get("http://10.77.0.50/who") == "onlan\n");
}

/// With the kernel's module it works; without it the reason is said and nobody else is
/// kept from running.
#[test]
fn an_ipvlan_works_or_says_what_the_kernel_lacks() {
    let host = Machine::new();
    let outside = host.neighbour();
    let lan = "driver = \"ipvlan\"\nparent = \"up0\"\nsubnet = \"10.77.0.0/24\"\ngateway = \"10.77.0.2\"\n";
    let mut berth = Berth::in_network(&host.path());
    berth.write("lan.network.toml", lan);
    berth.write("onlan.toml", &web("networks = [\"lan\"]\nip = \"10.77.0.50\""));
    berth.write("plain.toml", IDLE);
    berth.up();
    berth.wait_status("plain", "running");
    berth.wait("the page on the LAN, or the reason", || {
        let ps = berth.ok(&["ps", "-a"]);
        outside.get("http://10.77.0.50/who") == "onlan\n"
            || ps.contains("cannot make the ipvlan of up0") && ps.contains("kernel lacks this")
    });
}

/// Debian's plugins, where they are installed.
#[test]
fn plugins_make_a_network() {
    if !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        eprintln!("not tried: no /usr/lib/cni/bridge");
        return;
    }
    let host = Machine::new();
    let mut berth = Berth::in_network(&host.path());
    let data = berth.path("ipam");
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "shop", "plugins": [
            {{"type": "bridge", "bridge": "cni7", "isGateway": true,
              "ipam": {{"type": "host-local", "subnet": "10.72.0.0/24", "dataDir": "{}"}}}}]}}"#,
        data.display()
    );
    std::fs::create_dir_all(berth.path("etc/cni/net.d")).unwrap();
    std::fs::write(berth.path("etc/cni/net.d/10-shop.conflist"), list).unwrap();
    berth.write("web.toml", &format!("{WEB}[network]\nmode = \"cni:shop\"\n"));
    berth.write("lost.toml", &format!("{IDLE}[network]\nmode = \"cni:nowhere\"\n"));
    berth.up();
    berth.wait("the page", || host.get("http://10.72.0.2/who") == "web\n");
    berth.wait("the reason", || berth.ok(&["ps", "-a"]).contains("nowhere in "));
    let leases = || {
        std::fs::read_dir(data.join("shop"))
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
            .count()
    };
    assert_eq!(leases(), 1);
    // An engine that starts forgets nothing that plugins have to take back.
    support::kill(berth.engine_pid().unwrap(), 9);
    berth.wait_status("web", "running");
    berth.remove("web.toml");
    berth.wait("its address to be given back", || leases() == 0);
}
