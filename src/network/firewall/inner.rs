//! The rules in a container's own network namespace, if it has a resolver there
//! ([`crate::network::dns::inside`]): in a table of their own, for a Berth in there has its
//! tables too. Pure.

use std::net::Ipv4Addr;

use super::expr::Expr;
use super::plan::{META_L4PROTO, meta_is};
use super::ruleset::{Chain, Family, Table};
use crate::manifest::publish::Protocol;

/// What leads a port of an address to others of it; empty without any.
pub(super) fn table((address, port): (Ipv4Addr, u16), to: &[(Protocol, u16)]) -> Table {
    let is = |value: Vec<u8>| Expr::Compare { register: 0, not: false, value };
    let rule = |(protocol, to): &(Protocol, u16)| {
        let [meta, number] = meta_is(META_L4PROTO, vec![protocol.number()]);
        vec![
            Expr::Payload { base: 1, offset: 16, length: 4, to: 0 },
            is(address.octets().into()),
            meta,
            number,
            Expr::Payload { base: 2, offset: 2, length: 2, to: 0 },
            is(port.to_be_bytes().into()),
            Expr::Load { value: address.octets().into(), to: 8 },
            Expr::Load { value: to.to_be_bytes().into(), to: 9 },
            Expr::Dnat { v6: false, address: 8, port: 9 },
        ]
    };
    let rules: Vec<_> = to.iter().map(rule).collect();
    let chain = Chain { name: "output", kind: "nat", hook: 3, priority: -100, rules };
    let chains = if to.is_empty() { Vec::new() } else { vec![chain] };
    Table { family: Family::Ip, name: "berth-names".into(), sets: Vec::new(), chains }
}
