//! From networks, containers' interfaces and published ports to the whole ruleset.
//! Pure. See the room's first lines for why it is as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::expr::{Expr, Register, Verdict};
use super::ruleset::{Chain, Element, Family, Part, Set, Table, Type};
use crate::manifest::publish::Protocol;
use crate::network::ipam::Lease;
use crate::network::names::Instance;
use crate::network::spec::{Driver, NetworkSpec};

/// A container's interface on a bridge, as the firewall sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The host's end.
    pub host_end: String,
    /// What it may send from.
    pub lease: Lease,
}

/// One port of the host that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The address of the host, or all of them.
    pub host: Option<IpAddr>,
    /// The port of the host.
    pub port: u16,
    /// tcp or udp.
    pub protocol: Protocol,
    /// The container's addresses.
    pub to: Lease,
    /// The container's port.
    pub to_port: u16,
    /// Around the host's input rules (`firewall = "bypass"`).
    pub bypass: bool,
}

/// Everything that the ruleset follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose tables these are.
    pub instance: Instance,
    /// All networks.
    pub networks: Vec<NetworkSpec>,
    /// All containers' interfaces on bridges.
    pub ports: Vec<Port>,
    /// All published ports.
    pub published: Vec<Published>,
    /// The index of the sending end of the admission pair; needed if anything is
    /// published that does not bypass.
    pub admission: Option<u32>,
}

/// The address that new connections are sent to on the admission pair: link-local,
/// nobody answers there, only its hardware address is used.
pub const ADMISSION_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);
/// The same for IPv6.
pub const ADMISSION_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 2);

// linux/netfilter/nf_tables.h
const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)` and that of related.
const ESTABLISHED: u32 = 2 | 4;
const NEW: u32 = 8;
/// `IPS_DST_NAT`.
const DNAT: u32 = 32;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

const INTERFACE: Type = Type(&[Part::Interface]);

/// The whole ruleset: tables of one name in four families, empty ones to be removed.
pub fn plan(plan: &Plan) -> Vec<Table> {
    let name = plan.instance.table();
    let empty = plan.networks.iter().all(|network| network.driver != Driver::Bridge);
    let table = |family, sets, chains| Table { family, name: name.clone(), sets, chains };
    if empty {
        return [Family::Inet, Family::Ip, Family::Ip6, Family::Bridge]
            .map(|family| table(family, Vec::new(), Vec::new()))
            .into();
    }
    let (sets, chains) = (inet_sets(plan), inet_chains(plan));
    let mut tables = vec![table(Family::Inet, sets, chains)];
    for v6 in [false, true] {
        let family = if v6 { Family::Ip6 } else { Family::Ip };
        tables.push(match plan.admission {
            Some(device) => {
                table(family, admission_sets(plan, v6), vec![admission_chain(plan, v6, device)])
            }
            None => table(family, Vec::new(), Vec::new()),
        });
    }
    tables.push(table(Family::Bridge, spoof_sets(plan), vec![spoof_chain(plan)]));
    tables
}

fn bridges(plan: &Plan) -> impl Iterator<Item = (String, &NetworkSpec)> {
    plan.networks
        .iter()
        .filter(|network| network.driver == Driver::Bridge)
        .map(|network| (plan.instance.bridge(&network.name), network))
}

// ---- bytes of keys and values

fn padded(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(*part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn set(name: &'static str, key: Type, mut elements: Vec<Element>) -> Set {
    elements.sort();
    elements.dedup();
    Set { name, key, value: None, elements }
}

fn key(key: Vec<u8>) -> Element {
    Element { key, value: Vec::new() }
}

// ---- published ports

/// Elements for one family: with an address of the host, or for all of them.
fn published(plan: &Plan, v6: bool, at: bool, keep: impl Fn(&Published) -> bool) -> Vec<Element> {
    let mut found = Vec::new();
    for one in plan.published.iter().filter(|one| keep(one)) {
        if one.host.is_some() != at || one.host.is_some_and(|host| host.is_ipv6() != v6) {
            continue;
        }
        let to = if v6 { one.to.v6.map(IpAddr::V6) } else { Some(IpAddr::V4(one.to.v4)) };
        let Some(to) = to else { continue };
        let (protocol, port) = ([one.protocol.number()], one.port.to_be_bytes());
        let host = one.host.map(octets).unwrap_or_default();
        found.push(Element {
            key: padded(&[&host, &protocol, &port]),
            value: padded(&[&octets(to), &one.to_port.to_be_bytes()]),
        });
    }
    // One key leads to one container: the first that asked.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|element| seen.insert(element.key.clone()));
    found.sort();
    found
}

const ANY: Type = Type(&[Part::Protocol, Part::Port]);
const AT: [Type; 2] =
    [Type(&[Part::V4, Part::Protocol, Part::Port]), Type(&[Part::V6, Part::Protocol, Part::Port])];
const TO: [Type; 2] = [Type(&[Part::V4, Part::Port]), Type(&[Part::V6, Part::Port])];
const MAPS: [[&str; 2]; 2] = [["any4", "at4"], ["any6", "at6"]];
const BYPASS: [[&str; 2]; 2] = [["bypass-any4", "bypass-at4"], ["bypass-any6", "bypass-at6"]];

fn key_type(v6: bool, at: bool) -> Type {
    if at { AT[usize::from(v6)].clone() } else { ANY }
}

fn inet_sets(plan: &Plan) -> Vec<Set> {
    let names = |keep: &dyn Fn(&NetworkSpec) -> bool| -> Vec<Element> {
        bridges(plan)
            .filter(|(_, network)| keep(network))
            .map(|(bridge, _)| key(interface(&bridge)))
            .collect()
    };
    let lanes = bridges(plan)
        .filter(|(_, network)| !network.isolated)
        .map(|(bridge, _)| key(padded(&[&interface(&bridge), &interface(&bridge)])))
        .collect();
    let mut sets = vec![
        set("bridges", INTERFACE, names(&|_| true)),
        set("internal", INTERFACE, names(&|network| network.internal)),
        set("lanes", Type(&[Part::Interface, Part::Interface]), lanes),
    ];
    for v6 in [false, true] {
        for at in [false, true] {
            let (family, kind) = (usize::from(v6), usize::from(at));
            sets.push(Set {
                name: MAPS[family][kind],
                key: key_type(v6, at),
                value: Some(TO[family].clone()),
                elements: published(plan, v6, at, |_| true),
            });
            let bypass = published(plan, v6, at, |one| one.bypass)
                .into_iter()
                .map(|element| key(element.key))
                .collect();
            sets.push(set(BYPASS[family][kind], key_type(v6, at), bypass));
        }
    }
    sets
}

// ---- pieces of rules

fn verdict(verdict: Verdict) -> Expr {
    Expr::Verdict(verdict)
}

pub(super) fn meta_is(what: u32, value: Vec<u8>) -> [Expr; 2] {
    [Expr::Meta { key: what, to: 0 }, Expr::Compare { register: 0, not: false, value }]
}

fn interface_in(what: u32, set: &'static str) -> [Expr; 2] {
    [Expr::Meta { key: what, to: 0 }, Expr::Lookup { set, key: 0, not: false, value: None }]
}

fn ct_has(what: u32, bits: u32) -> [Expr; 3] {
    [
        Expr::Ct { key: what, to: 0 },
        Expr::And { register: 0, mask: bits.to_ne_bytes().into() },
        Expr::Compare { register: 0, not: true, value: vec![0; 4] },
    ]
}

fn set_mark(mark: u32, register: Register) -> Vec<Expr> {
    vec![
        Expr::Load { value: mark.to_ne_bytes().into(), to: register },
        Expr::SetMeta { key: META_MARK, from: register },
    ]
}

fn to_local() -> [Expr; 2] {
    [
        Expr::DestinationType { to: 0 },
        Expr::Compare { register: 0, not: false, value: LOCAL.to_ne_bytes().into() },
    ]
}

fn family(v6: bool) -> [Expr; 2] {
    meta_is(META_NFPROTO, vec![if v6 { IPV6 } else { IPV4 }])
}

fn address(v6: bool, destination: bool, to: Register) -> Expr {
    let (offset, length) = match (v6, destination) {
        (false, false) => (12, 4),
        (false, true) => (16, 4),
        (true, false) => (8, 16),
        (true, true) => (24, 16),
    };
    Expr::Payload { base: 1, offset, length, to }
}

fn in_net(net: IpNet) -> Vec<Expr> {
    let v6 = matches!(net, IpNet::V6(_));
    let mut rule = family(v6).to_vec();
    rule.extend([
        address(v6, false, 0),
        Expr::And { register: 0, mask: octets(net.netmask()) },
        Expr::Compare { register: 0, not: false, value: octets(net.network()) },
    ]);
    rule
}

/// Loads the key of a published port from register 0 on.
fn port_key(v6: bool, at: bool) -> Vec<Expr> {
    let mut rule = Vec::new();
    let mut next = 0;
    if at {
        rule.push(address(v6, true, 0));
        next = if v6 { 4 } else { 1 };
    }
    rule.push(Expr::Meta { key: META_L4PROTO, to: next });
    // Destination port of TCP and UDP. What has no ports is in no set.
    rule.push(Expr::Payload { base: 2, offset: 2, length: 2, to: next + 1 });
    rule
}

fn dnat(v6: bool, at: bool) -> Vec<Expr> {
    let mut rule = port_key(v6, at);
    let map = MAPS[usize::from(v6)][usize::from(at)];
    rule.push(Expr::Lookup { set: map, key: 0, not: false, value: Some(8) });
    rule.push(Expr::Dnat { v6, address: 8, port: if v6 { 12 } else { 9 } });
    rule
}

fn each_kind() -> impl Iterator<Item = (bool, bool)> {
    // A port of one address before the same port of all.
    [(false, true), (false, false), (true, true), (true, false)].into_iter()
}

fn rule(parts: impl IntoIterator<Item = Vec<Expr>>) -> Vec<Expr> {
    parts.into_iter().flatten().collect()
}

fn inet_chains(plan: &Plan) -> Vec<Chain> {
    let (_, admitted) = plan.instance.admission();
    let admitted = || meta_is(META_IIFNAME, interface(&admitted)).to_vec();
    // route_localnet lets answers to 127.0.0.1 come back by a bridge; nothing else
    // may reach the host's loopback that way.
    let first = vec![rule([
        interface_in(META_IIFNAME, "bridges").into(),
        in_destination_loopback(),
        vec![verdict(Verdict::Drop)],
    ])];
    let mut prerouting = Vec::new();
    // `::1` can't leave the host: whoever serves it there must get it (`forward.rs`).
    let mut is_loopback6 = family(true).to_vec();
    is_loopback6.extend([
        address(true, true, 0),
        Expr::Compare { register: 0, not: false, value: Ipv6Addr::LOCALHOST.octets().into() },
        verdict(Verdict::Accept),
    ]);
    let mut output = vec![is_loopback6];
    for (v6, at) in each_kind() {
        prerouting.push(rule([admitted(), family(v6).into(), dnat(v6, at)]));
        let bypass = BYPASS[usize::from(v6)][usize::from(at)];
        let is_bypass = vec![Expr::Lookup { set: bypass, key: 0, not: false, value: None }];
        prerouting.push(rule([
            to_local().into(),
            family(v6).into(),
            port_key(v6, at),
            is_bypass,
            dnat(v6, at),
        ]));
        output.push(rule([to_local().into(), family(v6).into(), dnat(v6, at)]));
    }
    vec![
        Chain { name: "first", kind: "filter", hook: 0, priority: -300, rules: first },
        Chain { name: "prerouting", kind: "nat", hook: 0, priority: -100, rules: prerouting },
        Chain {
            name: "input",
            kind: "filter",
            hook: 1,
            priority: 0,
            // What came back through the admission pair and is no published port any
            // more is nobody's.
            rules: vec![rule([admitted(), vec![verdict(Verdict::Drop)]])],
        },
        Chain { name: "output", kind: "nat", hook: 3, priority: -100, rules: output },
        Chain { name: "postrouting", kind: "nat", hook: 4, priority: 100, rules: leaving(plan) },
        Chain { name: "forward", kind: "filter", hook: 2, priority: 0, rules: forward(plan) },
    ]
}

fn in_destination_loopback() -> Vec<Expr> {
    let mut rule = family(false).to_vec();
    rule.extend([
        Expr::Payload { base: 1, offset: 16, length: 1, to: 0 },
        Expr::Compare { register: 0, not: false, value: vec![127] },
    ]);
    rule
}

fn leaving(plan: &Plan) -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    for (bridge, network) in bridges(plan) {
        let by = |name: &str, not| {
            vec![
                Expr::Meta { key: META_OIFNAME, to: 0 },
                Expr::Compare { register: 0, not, value: interface(name) },
            ]
        };
        for subnet in network.subnets() {
            if !network.internal {
                // What the host says to itself by the bridge's address is no container's.
                let leaves = [by(&bridge, true), by("lo", true)].concat();
                rules.push(rule([in_net(subnet), leaves, vec![Expr::Masquerade]]));
            }
            // Hairpin: the answer must come back through us to be translated.
            rules.push(rule([
                in_net(subnet),
                by(&bridge, false),
                ct_has(CT_STATUS, DNAT).into(),
                vec![Expr::Masquerade],
            ]));
        }
    }
    // From the host's own loopback into a container.
    rules.push(rule([
        family(false).into(),
        vec![
            Expr::Payload { base: 1, offset: 12, length: 1, to: 0 },
            Expr::Compare { register: 0, not: false, value: vec![127] },
        ],
        interface_in(META_OIFNAME, "bridges").into(),
        vec![Expr::Masquerade],
    ]));
    rules
}

fn forward(plan: &Plan) -> Vec<Vec<Expr>> {
    let (_, admitted) = plan.instance.admission();
    let from = |set| interface_in(META_IIFNAME, set).to_vec();
    let to = |set| interface_in(META_OIFNAME, set).to_vec();
    let drop = || vec![verdict(Verdict::Drop)];
    let accept = || vec![verdict(Verdict::Accept)];
    vec![
        // The mark was for checks of the source, which lie behind.
        rule([meta_is(META_IIFNAME, interface(&admitted)).into(), set_mark(0, 0)]),
        rule([ct_has(CT_STATE, ESTABLISHED).into(), accept()]),
        rule([
            vec![
                Expr::Meta { key: META_IIFNAME, to: 0 },
                Expr::Meta { key: META_OIFNAME, to: 4 },
                Expr::Lookup { set: "lanes", key: 0, not: false, value: None },
            ],
            accept(),
        ]),
        rule([from("internal"), drop()]),
        rule([to("internal"), drop()]),
        // Published.
        rule([ct_has(CT_STATUS, DNAT).into(), accept()]),
        // From a bridge to another one, or from the outside to a container's own
        // address, or between isolated containers.
        rule([to("bridges"), drop()]),
    ]
}

// ---- admission: see the room's first lines

const ADMIT: [&str; 2] = ["any", "at"];

fn admission_sets(plan: &Plan, v6: bool) -> Vec<Set> {
    [false, true]
        .map(|at| {
            let keys = published(plan, v6, at, |one| !one.bypass)
                .into_iter()
                .map(|element| key(element.key))
                .collect();
            set(ADMIT[usize::from(at)], key_type(v6, at), keys)
        })
        .into()
}

fn admission_chain(plan: &Plan, v6: bool, device: u32) -> Chain {
    let (_, admitted) = plan.instance.admission();
    let not_from = |name: &str| {
        vec![
            Expr::Meta { key: META_IIFNAME, to: 0 },
            Expr::Compare { register: 0, not: true, value: interface(name) },
        ]
    };
    let to = if v6 { IpAddr::V6(ADMISSION_V6) } else { IpAddr::V4(ADMISSION_V4) };
    let rules = [true, false]
        .map(|at| {
            rule([
                not_from("lo"),
                not_from(&admitted),
                ct_has(CT_STATE, NEW).into(),
                port_key(v6, at),
                vec![Expr::Lookup { set: ADMIT[usize::from(at)], key: 0, not: false, value: None }],
                set_mark(plan.instance.admission_mark(), 13),
                vec![
                    Expr::Load { value: octets(to), to: 8 },
                    Expr::Load { value: device.to_ne_bytes().into(), to: 12 },
                    Expr::Duplicate { address: 8, device: 12 },
                    verdict(Verdict::Drop),
                ],
            ])
        })
        .into();
    // After every other chain of the hook: what comes here was let in by all of them.
    Chain { name: "admit", kind: "filter", hook: 1, priority: 290, rules }
}

// ---- spoofing

fn spoof_sets(plan: &Plan) -> Vec<Set> {
    let ports = || plan.ports.iter();
    let of = |port: &Port, address: IpAddr| {
        key(padded(&[&interface(&port.host_end), &port.lease.mac.0, &octets(address)]))
    };
    let macs =
        ports().map(|port| key(padded(&[&interface(&port.host_end), &port.lease.mac.0]))).collect();
    let v4 = ports().map(|port| of(port, IpAddr::V4(port.lease.v4))).collect();
    let v6 = ports()
        .flat_map(|port| {
            // The unspecified address is that of who asks whether an address is free.
            [Some(Ipv6Addr::UNSPECIFIED), Some(port.lease.mac.link_local()), port.lease.v6]
                .into_iter()
                .flatten()
                .map(move |address| of(port, IpAddr::V6(address)))
        })
        .collect();
    vec![
        set("macs", Type(&[Part::Interface, Part::Mac]), macs),
        set("from4", Type(&[Part::Interface, Part::Mac, Part::V4]), v4),
        set("from6", Type(&[Part::Interface, Part::Mac, Part::V6]), v6),
    ]
}

fn spoof_chain(plan: &Plan) -> Chain {
    let prefix = plan.instance.port_prefix().into_bytes();
    let protocol = |number: u16| meta_is(META_PROTOCOL, number.to_be_bytes().into()).to_vec();
    let link = || {
        vec![
            Expr::Meta { key: META_IIFNAME, to: 0 },
            Expr::Payload { base: 0, offset: 6, length: 6, to: 4 },
        ]
    };
    let unless_in = |set| vec![Expr::Lookup { set, key: 0, not: true, value: None }];
    let network = |offset, length, to| Expr::Payload { base: 1, offset, length, to };
    let drop = || vec![verdict(Verdict::Drop)];
    let accept = || vec![verdict(Verdict::Accept)];
    let icmp6 = |kind: u8| {
        let mut rule = protocol(0x86dd);
        rule.extend(meta_is(META_L4PROTO, vec![58]));
        rule.extend([
            Expr::Payload { base: 2, offset: 0, length: 1, to: 0 },
            Expr::Compare { register: 0, not: false, value: vec![kind] },
        ]);
        rule
    };
    let rules = vec![
        // Another one's port. Ours that are in no set yet are shut.
        rule([
            vec![
                Expr::Meta { key: META_IIFNAME, to: 0 },
                Expr::Compare { register: 0, not: true, value: prefix },
            ],
            accept(),
        ]),
        rule([link(), unless_in("macs"), drop()]),
        rule([protocol(0x0800), link(), vec![network(12, 4, 6)], unless_in("from4"), drop()]),
        rule([protocol(0x0800), accept()]),
        // ARP: whose addresses the message claims (RFC 826), not only its frame.
        rule([
            protocol(0x0806),
            vec![Expr::Meta { key: META_IIFNAME, to: 0 }, network(8, 6, 4), network(14, 4, 6)],
            unless_in("from4"),
            drop(),
        ]),
        rule([protocol(0x0806), accept()]),
        rule([protocol(0x86dd), link(), vec![network(8, 16, 6)], unless_in("from6"), drop()]),
        // A container is no router (RFC 4861, router advertisement).
        rule([icmp6(134), drop()]),
        // Neighbour advertisement: the address that it claims.
        rule([
            icmp6(136),
            link(),
            vec![Expr::Payload { base: 2, offset: 8, length: 16, to: 6 }],
            unless_in("from6"),
            drop(),
        ]),
        rule([protocol(0x86dd), accept()]),
        // VLAN tags and whatever else there is.
        drop(),
    ];
    Chain { name: "spoofed", kind: "filter", hook: 0, priority: -300, rules }
}
