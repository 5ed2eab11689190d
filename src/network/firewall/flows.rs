//! Flows that go on as they began.
//!
//! Connection tracking decides once a flow where it goes. A UDP client that keeps on
//! sending from the same port keeps its flow alive: it would never reach a container that
//! has another address now, and who gets the old address would get its datagrams. And who
//! asked before a port was published, and goes on asking, would never be let through to it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::expr::Attributes;
use super::netfilter::{Netfilter, attributes};
use super::plan::Plan;
use crate::manifest::publish::Protocol;
use crate::network::error::{Error, Result};
use crate::network::link::Links;

const SUBSYSTEM: u16 = 1; // NFNL_SUBSYS_CTNETLINK
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Attributes (linux/netfilter/nfnetlink_conntrack.h).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const STATUS_MASK: u16 = 26;
/// `IPS_SEEN_REPLY` and `IPS_DST_NAT`.
const ANSWERED: u32 = 2;
const DNAT: u32 = 32;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    protocol: u8,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

/// What is tracked of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    there: Way,
    back: Way,
    status: u32,
}

/// Makes the kernel forget flows of datagrams that lead to a container by a port that is
/// not published to it any more, and those that nobody answered and that are to a port that
/// is; says how many. In the calling thread's namespace.
///
/// # Errors
/// What connection tracking knows can't be read.
pub(super) fn forget_stale(plan: &Plan) -> Result<usize> {
    let failed = |error| Error::new("look through", "the tracked connections", error);
    let own = Links::open()?.own_addresses()?;
    let mut netfilter = Netfilter::open().map_err(failed)?;
    let mut forgotten = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut stale = Vec::new();
        for (status, mask) in [(DNAT, DNAT), (0, DNAT | ANSWERED)] {
            // Kernels that don't know this filter tell of all.
            let mut filter = Attributes::default();
            filter.number(STATUS, status).number(STATUS_MASK, mask);
            netfilter
                .all((SUBSYSTEM, GET), family, &filter.0, |_, body| {
                    let flow = read(body).filter(|flow| flow.status & mask == status);
                    let flow = flow.filter(|flow| is_stale(flow, plan, &own));
                    stale.extend(flow.map(|_| named(body)));
                })
                .map_err(failed)?;
        }
        for flow in stale {
            // It may be gone by itself.
            forgotten += usize::from(netfilter.order((SUBSYSTEM, DELETE), family, &flow).is_ok());
        }
    }
    Ok(forgotten)
}

fn read(body: &[u8]) -> Option<Flow> {
    let find = |wanted: u16| attributes(body).find(|(kind, _)| *kind == wanted).map(|one| one.1);
    let status = u32::from_be_bytes(*find(STATUS)?.first_chunk()?);
    Some(Flow { there: way(find(ORIGINAL)?)?, back: way(find(REPLY)?)?, status })
}

fn way(tuple: &[u8]) -> Option<Way> {
    let (mut from, mut to, mut protocol) = (None, None, None);
    let (mut from_port, mut to_port) = (None, None);
    for (kind, inner) in attributes(tuple) {
        for (part, value) in attributes(inner) {
            let port = || Some(u16::from_be_bytes(*value.first_chunk()?));
            match (kind, part) {
                // CTA_TUPLE_IP
                (1, 1) => from = Some(IpAddr::from(*value.first_chunk::<4>()?)),
                (1, 2) => to = Some(IpAddr::from(*value.first_chunk::<4>()?)),
                (1, 3) => from = Some(IpAddr::from(*value.first_chunk::<16>()?)),
                (1, 4) => to = Some(IpAddr::from(*value.first_chunk::<16>()?)),
                // CTA_TUPLE_PROTO
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => from_port = port(),
                (2, 3) => to_port = port(),
                _ => {}
            }
        }
    }
    Some(Way { protocol: protocol?, from: (from?, from_port?), to: (to?, to_port?) })
}

/// Whether a flow goes another way than one that begins now would.
fn is_stale(flow: &Flow, plan: &Plan, own: &BTreeSet<IpAddr>) -> bool {
    let Flow { there, back, status } = flow;
    let (host, host_port) = there.to;
    let mut published = plan.published.iter().filter(|one| {
        (one.protocol.number(), one.port) == (there.protocol, host_port)
            && one.host.is_none_or(|address| address == host)
    });
    if status & DNAT == 0 {
        return status & ANSWERED == 0 && own.contains(&host) && published.next().is_some();
    }
    let (container, port) = back.from;
    let is_ours = |net: ipnet::IpNet| net.contains(&container);
    there.protocol == Protocol::Udp.number()
        && plan.networks.iter().flat_map(|network| network.subnets()).any(is_ours)
        && !published.any(|one| {
            let to = [Some(IpAddr::V4(one.to.v4)), one.to.v6.map(IpAddr::V6)];
            one.to_port == port && to.contains(&Some(container))
        })
}

/// What names a flow, of all that was told of it.
fn named(body: &[u8]) -> Vec<u8> {
    let mut name = Attributes::default();
    for (kind, value) in attributes(body) {
        match kind {
            ORIGINAL => {
                name.bytes(kind | libc::NLA_F_NESTED as u16, value);
            }
            ID | ZONE => {
                name.bytes(kind, value);
            }
            _ => {}
        }
    }
    name.0
}
