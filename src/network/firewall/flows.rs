//! Datagrams that go on to where their port led before.
//!
//! Connection tracking decides once a flow where it goes, and a UDP client that keeps on
//! sending from the same port keeps its flow alive: it would never reach a container that
//! has another address now, and who gets the old address would get its datagrams.

use std::net::IpAddr;

use super::expr::Attributes;
use super::netfilter::{Netfilter, attributes};
use super::plan::Plan;
use crate::manifest::publish::Protocol;
use crate::network::error::{Error, Result};

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
/// `IPS_DST_NAT`.
const DNAT: u32 = 32;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    protocol: u8,
    from: (IpAddr, u16),
    /// The port that it goes to.
    to_port: u16,
}

/// Makes the kernel forget flows of datagrams that lead to a container by a port that is
/// not published to it any more; says how many. In the calling thread's namespace.
///
/// # Errors
/// What connection tracking knows can't be read.
pub(super) fn forget_stale(plan: &Plan) -> Result<usize> {
    let failed = |error| Error::new("look through", "the tracked connections", error);
    let mut netfilter = Netfilter::open().map_err(failed)?;
    let mut forgotten = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        // Kernels that don't know this filter tell of all.
        let mut filter = Attributes::default();
        filter.number(STATUS, DNAT).number(STATUS_MASK, DNAT);
        let mut stale = Vec::new();
        netfilter
            .all((SUBSYSTEM, GET), family, &filter.0, |_, body| {
                stale.extend(read(body).filter(|flow| is_stale(flow, plan)).map(|_| named(body)));
            })
            .map_err(failed)?;
        for flow in stale {
            // It may be gone by itself.
            forgotten += usize::from(netfilter.order((SUBSYSTEM, DELETE), family, &flow).is_ok());
        }
    }
    Ok(forgotten)
}

/// The way there and the way back of a flow whose destination is translated.
fn read(body: &[u8]) -> Option<[Way; 2]> {
    let find = |wanted: u16| attributes(body).find(|(kind, _)| *kind == wanted).map(|one| one.1);
    let status = u32::from_be_bytes(*find(STATUS)?.first_chunk()?);
    (status & DNAT != 0).then_some(())?;
    Some([way(find(ORIGINAL)?)?, way(find(REPLY)?)?])
}

fn way(tuple: &[u8]) -> Option<Way> {
    let (mut from, mut protocol, mut from_port, mut to_port) = (None, None, None, None);
    for (kind, inner) in attributes(tuple) {
        for (part, value) in attributes(inner) {
            let port = || Some(u16::from_be_bytes(*value.first_chunk()?));
            match (kind, part) {
                // CTA_TUPLE_IP: the source.
                (1, 1) => from = Some(IpAddr::from(*value.first_chunk::<4>()?)),
                (1, 3) => from = Some(IpAddr::from(*value.first_chunk::<16>()?)),
                // CTA_TUPLE_PROTO
                (2, 1) => protocol = value.first().copied(),
                (2, 2) => from_port = port(),
                (2, 3) => to_port = port(),
                _ => {}
            }
        }
    }
    Some(Way { protocol: protocol?, from: (from?, from_port?), to_port: to_port? })
}

/// Whether a flow leads into one of our networks by a port that leads elsewhere now.
fn is_stale([there, back]: &[Way; 2], plan: &Plan) -> bool {
    let (container, port) = back.from;
    let is_ours = |net: ipnet::IpNet| net.contains(&container);
    there.protocol == Protocol::Udp.number()
        && plan.networks.iter().flat_map(|network| network.subnets()).any(is_ours)
        && !plan.published.iter().any(|one| {
            let to = [Some(IpAddr::V4(one.to.v4)), one.to.v6.map(IpAddr::V6)];
            (one.protocol, one.port, one.to_port) == (Protocol::Udp, there.to_port, port)
                && to.contains(&Some(container))
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
