//! Others' rules that are in the way of containers: looked at, never changed.
//!
//! A packet that is forwarded passes the `forward` chains of all tables, and one that
//! drops it is final: an `accept` of ours can't overrule it. So who administers the host
//! is told what to type.

use std::collections::BTreeSet;

use super::expr::Attributes;
use super::netfilter::{Netfilter, attributes};
use crate::network::Instance;
use crate::network::error::{Error, Result};

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// Policies of a chain.
const DROP: u32 = 0;

/// A chain of the ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// Its hook and policy, if it is one that packets pass by themselves.
    base: Option<(u32, u32)>,
}

/// What drops containers' packets that are forwarded, and what allows them; a sentence
/// for each. In the calling thread's network namespace.
///
/// # Errors
/// The ruleset can't be read.
pub fn in_the_way(instance: &Instance) -> Result<BTreeSet<String>> {
    let failed = |error| Error::new("read", "the nftables ruleset", error);
    let mut asking = Netfilter::open().map_err(failed)?;
    let mut chains = Vec::new();
    asking
        .all((SUBSYSTEM, GET_CHAIN), 0, &[], |family, body| {
            chains.extend(read_chain(family, body));
        })
        .map_err(failed)?;
    let own = instance.table();
    chains.retain(|chain| chain.table != own);
    let mut found = BTreeSet::new();
    let needle = instance.bridges().into_bytes();
    for chain in chains.iter().filter(|chain| is_shut(chain)) {
        // Somebody who named our bridges has thought of them.
        let mut names_them = false;
        let mut table = Attributes::default();
        table.text(1, &chain.table);
        asking
            .all((SUBSYSTEM, GET_RULE), chain.family, &table.0, |_, body| {
                names_them |= body.windows(needle.len()).any(|some| some == needle);
            })
            .map_err(failed)?;
        if !names_them {
            found.insert(advice(chain, &chains, &instance.bridges()));
        }
    }
    Ok(found)
}

/// Whether what a chain does not know of is dropped when it is forwarded.
fn is_shut(chain: &Chain) -> bool {
    let is_routed = [libc::AF_INET, libc::AF_INET6, 1].contains(&i32::from(chain.family));
    match chain.base {
        Some((FORWARD, policy)) if is_routed => {
            // firewalld's ends with a rule that refuses everything.
            policy == DROP || chain.table == "firewalld"
        }
        _ => false,
    }
}

/// What is to be typed so that it lets containers' packets pass. Pure.
fn advice(chain: &Chain, all: &[Chain], bridges: &str) -> String {
    let has = |name: &str| {
        all.iter().any(|other| {
            (other.family, &other.table, other.name.as_str()) == (chain.family, &chain.table, name)
        })
    };
    let (family, iptables) = match i32::from(chain.family) {
        libc::AF_INET => ("ip", "iptables"),
        libc::AF_INET6 => ("ip6", "ip6tables"),
        _ => ("inet", "iptables"),
    };
    let (whose, type_this) = if has("DOCKER-USER") {
        let text = format!(
            "{iptables} -I DOCKER-USER -i {bridges}+ -j ACCEPT; \
             {iptables} -I DOCKER-USER -o {bridges}+ -j ACCEPT"
        );
        (", Docker's", text)
    } else if has("ufw-user-forward") || has("ufw6-user-forward") {
        let text = format!(
            "ufw route allow in on {bridges}+; ufw route allow out on \
             {bridges}+; ufw allow in on {bridges}+ to any port 53"
        );
        (", ufw's", text)
    } else if chain.table == "firewalld" {
        let text = format!(
            "firewall-cmd --permanent --new-zone=berth; firewall-cmd --permanent \
             --zone=berth --set-target=ACCEPT; firewall-cmd --permanent --zone=berth \
             --add-interface={bridges}+; firewall-cmd --reload"
        );
        ("", text)
    } else {
        ("", format!("accept there what comes in or goes out by {bridges}*"))
    };
    format!(
        "the host's firewall drops what is forwarded for containers (chain {} of the table \
         {family} {}{whose}), so they may have no outside, no published ports for other \
         machines, and not reach each other; to allow it: {type_this}",
        chain.name, chain.table
    )
}

fn read_chain(family: u8, body: &[u8]) -> Option<Chain> {
    let number = |value: &[u8]| Some(u32::from_be_bytes(*value.first_chunk()?));
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    let mut chain = Chain { family, table: String::new(), name: String::new(), base: None };
    let (mut hook, mut policy) = (None, None);
    for (kind, value) in attributes(body) {
        match kind {
            1 => chain.table = text(value),
            3 => chain.name = text(value),
            4 => hook = attributes(value).find(|(kind, _)| *kind == 1).and_then(|at| number(at.1)),
            5 => policy = number(value),
            _ => {}
        }
    }
    chain.base = hook.zip(policy);
    (!chain.table.is_empty()).then_some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: i32, table: &str, name: &str, base: Option<(u32, u32)>) -> Chain {
        Chain { family: family as u8, table: table.into(), name: name.into(), base }
    }

    #[test]
    fn who_forwards_nothing_is_told_what_to_type() {
        let shut = chain(libc::AF_INET6, "filter", "FORWARD", Some((FORWARD, DROP)));
        let docker = [shut.clone(), chain(libc::AF_INET6, "filter", "DOCKER-USER", None)];
        let said = advice(&shut, &docker, "berth");
        assert!(said.contains("ip6tables -I DOCKER-USER -o berth+ -j ACCEPT"), "{said}");
        // Docker's chain of the other family is another one.
        let other = [shut.clone(), chain(libc::AF_INET, "filter", "DOCKER-USER", None)];
        assert!(advice(&shut, &other, "berth").contains("by berth*"));
        assert!(is_shut(&shut));
        assert!(!is_shut(&chain(libc::AF_INET, "filter", "FORWARD", Some((FORWARD, 1)))));
        assert!(!is_shut(&chain(libc::AF_INET, "filter", "INPUT", Some((1, DROP)))));
        assert!(!is_shut(&chain(7, "filter", "FORWARD", Some((FORWARD, DROP)))));
        assert!(is_shut(&chain(1, "firewalld", "filter_FORWARD", Some((FORWARD, 1)))));
    }

    #[test]
    fn odd_bytes_are_no_chain() {
        assert_eq!(read_chain(2, &[]), None);
        assert_eq!(read_chain(2, &[0; 9]), None);
        assert_eq!(read_chain(2, &[255; 64]), None);
    }
}
