//! Names of a network's containers. [`answer`] is pure: a query and a zone give an
//! answer, or the word to ask somebody else; [`serve`] has the sockets.

pub mod inside;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use ipnet::IpNet;

pub use server::{Sockets, Upstream, serve};

/// How long others may remember an answer: containers come and go.
const TTL: u32 = 5;

/// Names and the addresses that they stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    names: BTreeMap<String, Vec<IpAddr>>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Names {
    /// Adds an address to a name; a name may have several, one a replica. The first
    /// name of an address is what the address is looked up as.
    pub fn add(&mut self, name: &str, address: IpAddr) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.addresses.entry(address).or_insert_with(|| name.clone());
        let addresses = self.names.entry(name).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }

    /// Adds others, as far as nobody has these names.
    pub fn fill_with(&mut self, others: Names) {
        for (name, addresses) in others.names {
            self.names.entry(name).or_insert(addresses);
        }
        for (address, name) in others.addresses {
            self.addresses.entry(address).or_insert(name);
        }
    }
}

/// What the resolver of one network answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone {
    /// The network's own names.
    pub names: Arc<Names>,
    /// Names of other networks that everybody who asks here is on.
    pub more: Vec<Arc<Names>>,
    /// Names that go before all others: links of everybody who asks here.
    pub links: Arc<Names>,
    /// What differs for some who ask, by their address.
    pub guests: BTreeMap<IpAddr, Guest>,
    /// Who is answered at all; everybody if it is empty. A host that routes for others
    /// must not serve their names.
    pub clients: Vec<IpNet>,
    /// Whether other names are asked of servers outside; a network without an outside
    /// must not leak by its names.
    pub outside: bool,
    /// The servers that are asked, instead of the host's.
    pub servers: Vec<IpAddr>,
}

/// What one container is answered beside the names of the network that it asks on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guest {
    /// The names of its other networks.
    pub names: Vec<Arc<Names>>,
    /// Names that go before all others, for it alone.
    pub links: Arc<Names>,
    /// The servers that are asked for it, instead of the host's.
    pub servers: Vec<IpAddr>,
    /// Whether any of its networks has an outside.
    pub outside: bool,
}

impl Zone {
    fn all(&self, source: IpAddr) -> impl Iterator<Item = &Names> {
        let guest = self.guests.get(&source);
        let others = guest.into_iter().flat_map(|guest| &guest.names);
        std::iter::once(&self.names).chain(&self.more).chain(others).map(Arc::as_ref)
    }

    fn named(&self, source: IpAddr, name: &str) -> Option<&Vec<IpAddr>> {
        let guest = self.guests.get(&source);
        let links = guest.map(|guest| &guest.links).into_iter().chain([&self.links]);
        links.map(Arc::as_ref).chain(self.all(source)).find_map(|names| names.names.get(name))
    }

    fn forward(&self, source: IpAddr) -> Option<Vec<IpAddr>> {
        match self.guests.get(&source) {
            Some(guest) => guest.outside.then(|| guest.servers.clone()),
            None => self.outside.then(|| self.servers.clone()),
        }
    }
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send these bytes back.
    Reply(Vec<u8>),
    /// Not ours: ask these servers; those of the host if there are none.
    Forward(Vec<IpAddr>),
    /// Say nothing: it is not a query.
    Ignore,
}

/// Answers a query of `source` from the zone. `turn` counts the questions for a name and
/// a type: it chooses which of several addresses is given. `limit` is how long the answer may be in bytes;
/// a longer one is cut, and says so (RFC 1035, section 4.2.1).
pub fn answer(
    query: &[u8],
    zone: &Zone,
    source: IpAddr,
    turn: impl FnOnce(&str, RecordType) -> usize,
    limit: usize,
) -> Answer {
    let Ok(query) = Message::from_vec(query) else { return Answer::Ignore };
    if !zone.clients.is_empty() && !zone.clients.iter().any(|net| net.contains(&source)) {
        return Answer::Ignore;
    }
    if query.metadata.message_type != MessageType::Query {
        return Answer::Ignore;
    }
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let [question] = query.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return encode(&reply, limit);
    };
    reply.add_query(question.clone());
    if query.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return encode(&reply, limit);
    }
    let name = question.name();
    let text = name.to_ascii();
    let text = text.trim_end_matches('.').to_ascii_lowercase();
    let record = |data| Record::from_rdata(name.clone(), TTL, data);
    if let Some(addresses) = zone.named(source, &text) {
        let kind = question.query_type();
        let mut records: Vec<Record> = addresses
            .iter()
            .filter_map(|address| match (kind, address) {
                (RecordType::A, IpAddr::V4(address)) => Some(record(RData::A(rdata::A(*address)))),
                (RecordType::AAAA, IpAddr::V6(address)) => {
                    Some(record(RData::AAAA(rdata::AAAA(*address))))
                }
                _ => None,
            })
            .collect();
        // One alone: what resolvers get several of they sort (RFC 6724, rule 9), and the
        // same one would always be first.
        if records.len() > 1 {
            let first = turn(&text, kind) % records.len();
            records.swap(0, first);
            records.truncate(1);
        }
        reply.metadata.authoritative = true;
        reply.add_answers(records);
        return encode(&reply, limit);
    }
    if question.query_type() == RecordType::PTR
        && let Some(address) = reversed(&text)
        && let Some(host) = zone.all(source).find_map(|names| names.addresses.get(&address))
        && let Ok(host) = Name::from_ascii(format!("{host}."))
    {
        reply.metadata.authoritative = true;
        reply.add_answers([record(RData::PTR(rdata::PTR(host)))]);
        return encode(&reply, limit);
    }
    match zone.forward(source) {
        Some(servers) => Answer::Forward(servers),
        None => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            encode(&reply, limit)
        }
    }
}

/// The reply that says that nobody could be asked.
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.response_code = ResponseCode::ServFail;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries);
    reply.to_vec().ok()
}

fn encode(reply: &Message, limit: usize) -> Answer {
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Answer::Reply(bytes),
        Ok(_) => match reply.truncate().to_vec() {
            Ok(bytes) if bytes.len() <= limit => Answer::Reply(bytes),
            _ => Answer::Ignore,
        },
        Err(_) => Answer::Ignore,
    }
}

/// The address of `2.0.1.10.in-addr.arpa` and of its like in `ip6.arpa` (RFC 3596).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes = [0; 4];
        let mut labels = rest.rsplit('.');
        for byte in &mut bytes {
            *byte = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(bytes).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut address = 0u128;
    let mut labels = rest.rsplit('.');
    for _ in 0..32 {
        let digit = labels.next().filter(|digit| digit.len() == 1)?;
        address = address << 4 | u128::from_str_radix(digit, 16).ok()?;
    }
    labels.next().is_none().then(|| Ipv6Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;

    fn zone() -> Zone {
        let mut names = Names::default();
        for (name, address) in [
            ("web", "10.1.0.2"),
            ("web", "fd00::2"),
            ("app", "10.1.0.2"),
            ("app", "10.1.0.3"),
            ("app", "10.1.0.4"),
        ] {
            names.add(name, address.parse().unwrap());
        }
        Zone { names: Arc::new(names), outside: true, ..Zone::default() }
    }

    const ASKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 9));

    fn ask(name: &str, kind: RecordType, turn: usize) -> Option<Message> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match answer(&query.to_vec().unwrap(), &zone(), ASKER, |_, _| turn, 512) {
            Answer::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            Answer::Forward(_) => None,
            Answer::Ignore => panic!("ignored"),
        }
    }

    fn data(name: &str, kind: RecordType, turn: usize) -> Vec<String> {
        let reply = ask(name, kind, turn).unwrap();
        reply.answers.iter().map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn names_and_addresses_are_looked_up() {
        assert_eq!(data("WEB.", RecordType::A, 0), ["10.1.0.2"]);
        assert_eq!(data("web.", RecordType::AAAA, 0), ["fd00::2"]);
        assert_eq!(data("2.0.1.10.in-addr.arpa.", RecordType::PTR, 0), ["web."]);
        let six = format!("2.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(data(&six, RecordType::PTR, 0), ["web."]);
        // The name exists, without such a record: no error, and nobody else is asked.
        assert_eq!(ask("app.", RecordType::AAAA, 0).unwrap().answers.len(), 0);
        assert_eq!(ask("example.org.", RecordType::A, 0), None);
    }

    #[test]
    fn replicas_answer_in_turn() {
        let firsts: Vec<String> =
            (0..4).map(|turn| data("app.", RecordType::A, turn).remove(0)).collect();
        assert_eq!(firsts, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.2"]);
    }

    #[test]
    fn a_guest_hears_the_names_of_all_its_networks_and_an_internal_one_asks_nobody() {
        let mut other = Names::default();
        other.add("db", "10.2.0.7".parse().unwrap());
        let servers = vec!["9.9.9.9".parse().unwrap()];
        let names = vec![Arc::new(other)];
        let guest = Guest { names, servers: servers.clone(), outside: true, ..Guest::default() };
        let mut zone = zone();
        zone.outside = false;
        zone.clients = vec!["10.1.0.0/24".parse().unwrap()];
        zone.guests.insert(ASKER, guest);
        let ask = |name: &str, source: IpAddr| {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            match answer(&query.to_vec().unwrap(), &zone, source, |_, _| 0, 512) {
                Answer::Reply(bytes) => {
                    let reply = Message::from_vec(&bytes).unwrap();
                    Ok((reply.metadata.response_code, reply.answers.len()))
                }
                Answer::Forward(servers) => Err(servers),
                Answer::Ignore => panic!("ignored"),
            }
        };
        let stranger = "10.1.0.77".parse().unwrap();
        assert_eq!(ask("db.", ASKER), Ok((ResponseCode::NoError, 1)));
        assert_eq!(ask("web.", ASKER), Ok((ResponseCode::NoError, 1)));
        assert_eq!(ask("example.org.", ASKER), Err(servers));
        assert_eq!(ask("db.", stranger), Ok((ResponseCode::NXDomain, 0)));
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
        let query = query.to_vec().unwrap();
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert_eq!(answer(&query, &zone, elsewhere, |_, _| 0, 512), Answer::Ignore);
    }

    #[test]
    fn a_link_goes_before_a_container_of_that_name_for_who_has_it_alone() {
        let mut links = Names::default();
        links.add("web", "10.1.0.7".parse().unwrap());
        let links = Arc::new(links);
        let guest = Guest { links: Arc::clone(&links), ..Guest::default() };
        let mut zone = zone();
        zone.guests.insert(ASKER, guest);
        let stranger = "10.1.0.77".parse().unwrap();
        let addresses = |zone: &Zone, source| zone.named(source, "web").unwrap().clone();
        let linked: Vec<IpAddr> = vec!["10.1.0.7".parse().unwrap()];
        let own: Vec<IpAddr> = ["10.1.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(addresses(&zone, ASKER), linked);
        assert_eq!(addresses(&zone, stranger), own);
        zone.links = links;
        assert_eq!(addresses(&zone, stranger), linked);
    }

    #[test]
    fn an_answer_that_is_too_long_is_cut_and_says_so() {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
        let query = query.to_vec().unwrap();
        let Answer::Reply(bytes) = answer(&query, &zone(), ASKER, |_, _| 0, 30) else {
            panic!("no reply");
        };
        assert!(bytes.len() <= 30);
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&bytes, &zone(), ASKER, |_, _| 0, 512);
            let _ = failure(&bytes);
        }
    }
}
