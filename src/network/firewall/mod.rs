//! The firewall: tables of our own and nobody else's, as nftables messages.
//!
//! `plan.rs` is pure: it gives the whole ruleset for the whole state. [`Firewall`]
//! gives it to the kernel in one transaction, or, where only elements of sets
//! differ (a port was published, a container came), those alone: a published port
//! is one element of a map, so it costs the same beside 1,000 others.
//!
//! # Published ports and the host's own input rules
//! A destination that is translated in `prerouting` never passes the `input` hook,
//! so with other engines a published port is open to the world whatever the
//! administrator's input rules say. Here, by default, it is open if those let it:
//!
//! 1. The first packet of a connection to a published port is not translated. It
//!    goes the way of every packet to the host, through all `input` chains of all
//!    tables, with the port and addresses that the administrator knows.
//! 2. What they let pass comes to our chain `admit`, the last of the hook. It sends
//!    the packet once more through a veth pair that has both ends on the host, and
//!    drops the original.
//! 3. What comes in by that pair, and only that, is translated. The connection is
//!    now known to connection tracking: its other packets, and its answers, are
//!    translated and forwarded by the kernel at once, without another detour.
//!
//! Firewalls that drop what comes by another interface than its source is behind
//! (firewalld does for IPv6) ask a routing table: the packet has a mark on that way, and
//! a rule of routing gives it one in which everything is behind the pair.
//!
//! So the rules are asked once a connection, nothing is copied through user space,
//! the container sees the client's address, and no process of ours needs to live.
//! Sending a copy (`dup`) exists in the families `ip` and `ip6` only: that chain is
//! in tables of our name there. `bypass` asks for translation at once.
//!
//! From the host itself (`output`), the destination is translated at once. To reach
//! a container from 127.0.0.1 its bridge has `route_localnet`; the chain `first`
//! drops what a container sends to 127.0.0.0/8. The kernel can't do the same for
//! `::1`: see [`super::forward`].
//!
//! A host whose `forward` hook drops what it does not know (ufw, Docker, firewalld)
//! drops containers' traffic too: an `accept` in one table is not one in another,
//! and others' tables are not ours to change.
//!
//! # A flushed ruleset
//! Tables are owned by our socket (`NFT_TABLE_F_OWNER`), so `flush ruleset` passes
//! them by, and stay when it is gone (`NFT_TABLE_F_PERSIST`, Linux 6.9). On older
//! kernels [`watch::Watcher`] tells of their removal and [`Firewall::restore`] puts
//! them back; connections live on, as connection tracking has not forgotten them.

mod expr;
mod flows;
mod inner;
mod netfilter;
pub mod others;
mod plan;
mod ruleset;
pub mod watch;
mod wire;

use std::net::Ipv4Addr;

use self::ruleset::Table;
use self::wire::Wire;
use super::error::Result;
use crate::manifest::publish::Protocol;

pub(super) use self::plan::{ADMISSION_V4, ADMISSION_V6};
pub use self::plan::{Plan, Port, Published};

/// Our tables in the kernel.
#[derive(Debug)]
pub struct Firewall {
    wire: Wire,
    applied: Vec<Table>,
    /// What was last published.
    published: Option<Vec<Published>>,
}

/// In the calling thread's network namespace, a container's: leads a port of an address
/// to others of it. Without any, nothing is left of that.
///
/// # Errors
/// The kernel has no nf_tables.
pub(super) fn lead_names(from: (Ipv4Addr, u16), to: &[(Protocol, u16)]) -> Result<()> {
    let mut wire = Wire::open()?;
    // The container may do with it what it likes.
    wire.disown();
    wire.replace(&[inner::table(from, to)])
}

/// Whoever sends already follows what `plan` publishes. In the calling thread's network
/// namespace; strangers decide how much there is to look through, so nobody may wait for
/// it.
pub fn forget_flows(plan: &Plan) {
    if let Err(error) = flows::forget_stale(plan) {
        tracing::debug!("{error}; who sends already may go on as it began");
    }
}

impl Firewall {
    /// Opens it in the calling thread's network namespace; nothing changes yet.
    ///
    /// # Errors
    /// The kernel has no nf_tables.
    pub fn open() -> Result<Firewall> {
        Ok(Firewall { wire: Wire::open()?, applied: Vec::new(), published: None })
    }

    /// Makes the ruleset what `plan` says, in one transaction. Gives whether something else
    /// is published now, so that flows may go on as they should not ([`forget_flows`]).
    ///
    /// # Errors
    /// Which rule the kernel refused, and why; nothing has changed then.
    pub fn apply(&mut self, plan: &Plan) -> Result<bool> {
        let wanted = plan::plan(plan);
        match ruleset::difference(&self.applied, &wanted) {
            Some(changes) if changes.is_empty() => {}
            // Should somebody have changed our tables meanwhile, the whole helps.
            Some(changes) if self.wire.change(&changes).is_ok() => {}
            _ => self.wire.replace(&wanted)?,
        }
        self.applied = wanted;
        // Of what was before the first one nothing is known.
        let is_same = self.published.as_ref() == Some(&plan.published);
        if !is_same {
            self.published = Some(plan.published.clone());
        }
        Ok(!is_same)
    }

    /// Makes the ruleset anew as it was last applied.
    pub fn restore(&mut self) -> Result<()> {
        self.wire.replace(&self.applied)
    }

    /// Removes all our tables.
    pub fn remove(&mut self, instance: &super::Instance) -> Result<()> {
        let nothing = Plan {
            instance: instance.clone(),
            networks: Vec::new(),
            ports: Vec::new(),
            published: Vec::new(),
            admission: None,
        };
        let empty = plan::plan(&nothing);
        self.wire.replace(&empty)?;
        self.applied = Vec::new();
        Ok(())
    }

    /// Whether nobody else can change or flush our tables.
    pub fn is_owner(&self) -> bool {
        self.wire.is_owner()
    }

    /// Does without ownership, as kernels before 6.9 must.
    pub fn disown(&mut self) {
        self.wire.disown();
    }
}
