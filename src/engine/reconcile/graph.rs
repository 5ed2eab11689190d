//! Who waits for whom: the edges that the manifests in force draw.
//!
//! The loader refuses cycles; should one come about all the same (a broken manifest
//! whose last good version is older than its neighbours), the edge that closes it
//! is passed over, so that nothing waits for itself for ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::model::Container;
use crate::manifest::scalar::Name;
use crate::manifest::variants::NetworkMode;

/// What one container means to another. At least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edge {
    /// It must run.
    pub requires: bool,
    /// Its network is joined.
    pub joins: bool,
    /// It begins first and ends last, if it is there.
    pub after: bool,
    /// The two conflict, and this one gives way.
    pub yields: bool,
}

impl Edge {
    /// Whether the one that has the edge can't be without the other.
    pub fn needs(self) -> bool {
        self.requires || self.joins
    }

    /// Whether the one that has the edge ends first.
    pub fn orders(self) -> bool {
        self.requires || self.joins || self.after
    }
}

/// What one container means to each of the others.
pub type Edges = BTreeMap<Name, Edge>;

/// The edges of all containers.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    out: BTreeMap<Name, Edges>,
    back: BTreeMap<Name, BTreeSet<Name>>,
    /// Both directions: who declares a conflict with whom.
    rivals: BTreeMap<Name, BTreeSet<Name>>,
    /// Edges that close a cycle: they order nothing.
    ignored: BTreeSet<(Name, Name)>,
    /// Edges whose conflict does not make the one that declares it give way.
    insisting: BTreeSet<(Name, Name)>,
    stale: bool,
}

impl Graph {
    /// Draws the edges of `name`.
    pub fn set(&mut self, name: &Name, edges: Edges) {
        let none = Edges::new();
        let old = self.out.get(name).unwrap_or(&none);
        if *old == edges {
            return;
        }
        for to in old.keys() {
            remove(&mut self.back, to, name);
            // A conflict that the other one declares too remains.
            let mutual =
                self.out.get(to).and_then(|edges| edges.get(name)).is_some_and(|e| e.yields);
            if !mutual {
                remove(&mut self.rivals, to, name);
                remove(&mut self.rivals, name, to);
            }
        }
        for (to, edge) in &edges {
            self.back.entry(to.clone()).or_default().insert(name.clone());
            if edge.yields {
                self.rivals.entry(to.clone()).or_default().insert(name.clone());
                self.rivals.entry(name.clone()).or_default().insert(to.clone());
            }
        }
        if edges.is_empty() {
            self.out.remove(name);
        } else {
            self.out.insert(name.clone(), edges);
        }
        self.stale = true;
    }

    /// The edge as it counts: without what would close a cycle.
    fn counting(&self, by: &Name, to: &Name, edge: Edge) -> Edge {
        let has = |set: &BTreeSet<(Name, Name)>| {
            !set.is_empty() && set.contains(&(by.clone(), to.clone()))
        };
        match has(&self.ignored) {
            true => Edge { yields: edge.yields && !has(&self.insisting), ..Edge::default() },
            false => Edge { yields: edge.yields && !has(&self.insisting), ..edge },
        }
    }

    /// What `name` waits for.
    pub fn out<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (&'a Name, Edge)> {
        let edges = self.out.get(name).into_iter().flatten();
        edges.map(move |(to, edge)| (to, self.counting(name, to, *edge)))
    }

    /// Who waits for `name`, from `from` on in the order of names.
    pub fn back<'a>(
        &'a self,
        name: &'a Name,
        from: Option<&Name>,
    ) -> impl Iterator<Item = (&'a Name, Edge)> {
        use std::ops::Bound::{Included, Unbounded};
        let from = from.map_or(Unbounded, Included);
        let back = self.back.get(name).into_iter();
        back.flat_map(move |set| set.range::<Name, _>((from, Unbounded))).filter_map(move |by| {
            let edge = self.out.get(by)?.get(name)?;
            Some((by, self.counting(by, name, *edge)))
        })
    }

    /// Who can't run at the same time as `name`.
    pub fn rivals<'a>(&'a self, name: &Name) -> impl Iterator<Item = &'a Name> {
        self.rivals.get(name).into_iter().flatten()
    }

    /// Everyone whose situation may change with that of `name`.
    pub fn neighbours(&self, name: &Name) -> Vec<Name> {
        let out = self.out.get(name).into_iter().flat_map(BTreeMap::keys);
        let back = self.back.get(name).into_iter().flatten();
        out.chain(back).chain(self.rivals(name)).cloned().collect()
    }

    /// Finds the edges that close a cycle anew, if edges changed. Returns the ends
    /// of those that are passed over now and were not before, or the other way.
    pub fn settle(&mut self) -> Vec<Name> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let ignored = self.closing();
        let before = std::mem::replace(&mut self.ignored, ignored);
        let insisting = self.insisting();
        let yielded = std::mem::replace(&mut self.insisting, insisting);
        let ordering = self.ignored.symmetric_difference(&before);
        ordering
            .chain(self.insisting.symmetric_difference(&yielded))
            .flat_map(|(from, to)| [from.clone(), to.clone()])
            .collect()
    }

    /// The conflicts in which the one that declares it does not give way: both
    /// declare it and this one comes first in the order of names, or the other would
    /// go down with it.
    fn insisting(&self) -> BTreeSet<(Name, Name)> {
        let mut insisting = BTreeSet::new();
        for (by, to) in self.rivals.iter().flat_map(|(by, set)| set.iter().map(move |to| (by, to)))
        {
            if self.declares(by, to) && (!self.gives_way(by, to) || self.falls_with(to, by)) {
                insisting.insert((by.clone(), to.clone()));
            }
        }
        insisting
    }

    fn declares(&self, by: &Name, with: &Name) -> bool {
        self.out.get(by).and_then(|edges| edges.get(with)).is_some_and(|edge| edge.yields)
    }

    fn gives_way(&self, by: &Name, to: &Name) -> bool {
        self.declares(by, to) && (by > to || !self.declares(to, by))
    }

    /// Whether `name` would stop because `other` does, over however many others.
    fn falls_with(&self, name: &Name, other: &Name) -> bool {
        let mut seen = BTreeSet::from([name]);
        let mut open = vec![name];
        while let Some(at) = open.pop() {
            for (to, edge) in self.out.get(at).into_iter().flatten() {
                let ignored = self.ignored.contains(&(at.clone(), to.clone()));
                let leads = (edge.needs() && !ignored) || self.gives_way(at, to);
                if leads && to == other {
                    return true;
                }
                if leads && seen.insert(to) {
                    open.push(to);
                }
            }
        }
        false
    }

    /// Depth first, without recursion: a chain may be as long as there are containers.
    fn closing(&self) -> BTreeSet<(Name, Name)> {
        let mut closing = BTreeSet::new();
        let mut done: BTreeSet<&Name> = BTreeSet::new();
        let mut open: BTreeSet<&Name> = BTreeSet::new();
        for start in self.out.keys() {
            if done.contains(start) {
                continue;
            }
            let mut path = vec![(start, self.next(start))];
            open.insert(start);
            while let Some((name, rest)) = path.last_mut() {
                let name: &Name = name;
                match rest.next() {
                    Some(to) if open.contains(to) => {
                        closing.insert((name.clone(), to.clone()));
                    }
                    Some(to) if done.contains(to) || !self.out.contains_key(to) => {}
                    Some(to) => {
                        open.insert(to);
                        path.push((to, self.next(to)));
                    }
                    None => {
                        open.remove(name);
                        done.insert(name);
                        path.pop();
                    }
                }
            }
        }
        closing
    }

    fn next<'a>(&'a self, name: &Name) -> Box<dyn Iterator<Item = &'a Name> + 'a> {
        match self.out.get(name) {
            Some(edges) => {
                Box::new(edges.iter().filter(|(_, edge)| edge.orders()).map(|(to, _)| to))
            }
            None => Box::new(std::iter::empty()),
        }
    }
}

/// The edges that a manifest draws. `meant`: who is meant by a name.
pub fn edges(name: &Name, container: &Container, meant: impl Fn(&Name) -> Name) -> Edges {
    let mut edges = Edges::new();
    for to in &container.requires {
        edges.entry(meant(to)).or_default().requires = true;
    }
    // A target is reached when what it wants has been tried.
    let wanted = container.is_target().then_some(&container.wants).into_iter().flatten();
    for to in container.after.iter().chain(wanted) {
        edges.entry(meant(to)).or_default().after = true;
    }
    if let NetworkMode::Container(to) = container.network_mode() {
        edges.entry(meant(&to)).or_default().joins = true;
    }
    for to in &container.conflicts {
        edges.entry(meant(to)).or_default().yields = true;
    }
    edges.remove(name);
    edges
}

fn remove(map: &mut BTreeMap<Name, BTreeSet<Name>>, key: &Name, value: &Name) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn set(graph: &mut Graph, of: &str, container: Option<&Container>) {
        let of = name(of);
        let edges = container.map(|container| edges(&of, container, Name::clone));
        graph.set(&of, edges.unwrap_or_default());
    }

    fn requiring(names: &[&str]) -> Container {
        Container { requires: names.iter().map(|n| name(n)).collect(), ..Container::default() }
    }

    #[test]
    fn the_edge_that_closes_a_cycle_is_passed_over() {
        let mut graph = Graph::default();
        set(&mut graph, "a", Some(&requiring(&["b"])));
        set(&mut graph, "b", Some(&requiring(&["c"])));
        assert_eq!(graph.settle(), Vec::new());
        set(&mut graph, "c", Some(&requiring(&["a", "c"])));
        assert_eq!(graph.settle(), [name("c"), name("a")]);
        let c = name("c");
        let counting = |graph: &Graph| graph.out(&c).filter(|(_, edge)| edge.orders()).count();
        assert_eq!(counting(&graph), 0);
        assert_eq!(graph.out(&name("b")).count(), 1);
        set(&mut graph, "a", None);
        assert_eq!(graph.settle().len(), 2);
        assert_eq!(counting(&graph), 1);
        assert_eq!(graph.back(&name("c"), None).count(), 1);
    }

    #[test]
    fn a_long_chain_is_no_danger_to_the_stack() {
        let mut graph = Graph::default();
        for i in 0..20_000 {
            set(&mut graph, &format!("c{i}"), Some(&requiring(&[&format!("c{}", i + 1)])));
        }
        assert_eq!(graph.settle(), Vec::new());
    }

    #[test]
    fn a_mutual_conflict_outlives_one_of_its_declarations() {
        let mut graph = Graph::default();
        let conflict = |n: &str| Container { conflicts: vec![name(n)], ..Container::default() };
        set(&mut graph, "a", Some(&conflict("b")));
        set(&mut graph, "b", Some(&conflict("a")));
        set(&mut graph, "a", None);
        assert_eq!(graph.rivals(&name("a")).collect::<Vec<_>>(), [&name("b")]);
        set(&mut graph, "b", None);
        assert_eq!(graph.rivals(&name("a")).count(), 0);
    }
}
