//! The addresses that manifests fix, running or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::manifest::model::Container;
use crate::manifest::scalar::Name;

/// By network: who wishes for which addresses.
#[derive(Debug, Default, PartialEq)]
pub struct Wishes(BTreeMap<String, Vec<(String, IpAddr)>>);

impl Wishes {
    /// What these manifests fix.
    pub fn new(containers: &BTreeMap<Name, Arc<Container>>) -> Wishes {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, manifest) in containers {
            for member in manifest.network.members() {
                let fixed = [member.ip.map(IpAddr::V4), member.ip6.map(IpAddr::V6)];
                let fixed = fixed.into_iter().flatten().map(|address| (name.to_string(), address));
                all.entry(member.name).or_default().extend(fixed);
            }
        }
        Wishes(all)
    }

    /// What others than this container wish for on a network.
    pub fn of_others(&self, container: &str, network: &str) -> BTreeSet<IpAddr> {
        let all = self.0.get(network).into_iter().flatten();
        all.filter(|(name, _)| name != container).map(|(_, address)| *address).collect()
    }
}
