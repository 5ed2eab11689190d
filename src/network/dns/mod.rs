//! Names of a network's containers. [`answer`] is pure: a query and a zone give an
//! answer, or the word to ask somebody else; [`serve`] has the sockets.

mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

pub use server::{Sockets, serve};

/// How long others may remember an answer: containers come and go.
const TTL: u32 = 5;

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone {
    names: BTreeMap<String, Vec<IpAddr>>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Zone {
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
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send these bytes back.
    Reply(Vec<u8>),
    /// Not ours: ask the servers of the host.
    Forward,
    /// Say nothing: it is not a query.
    Ignore,
}

/// Answers a query from the zone. `turn` changes from query to query: it chooses who
/// is first of several addresses. `limit` is how long the answer may be in bytes;
/// a longer one is cut, and says so (RFC 1035, section 4.2.1).
pub fn answer(query: &[u8], zone: &Zone, turn: usize, limit: usize) -> Answer {
    let Ok(query) = Message::from_vec(query) else { return Answer::Ignore };
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
    if let Some(addresses) = zone.names.get(&text) {
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
        if !records.is_empty() {
            let first = turn % records.len();
            records.rotate_left(first);
        }
        reply.metadata.authoritative = true;
        reply.add_answers(records);
        return encode(&reply, limit);
    }
    if question.query_type() == RecordType::PTR
        && let Some(host) = reversed(&text).and_then(|address| zone.addresses.get(&address))
        && let Ok(host) = Name::from_ascii(format!("{host}."))
    {
        reply.metadata.authoritative = true;
        reply.add_answers([record(RData::PTR(rdata::PTR(host)))]);
        return encode(&reply, limit);
    }
    Answer::Forward
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
        let mut zone = Zone::default();
        for (name, address) in [
            ("web", "10.1.0.2"),
            ("web", "fd00::2"),
            ("app", "10.1.0.2"),
            ("app", "10.1.0.3"),
            ("app", "10.1.0.4"),
        ] {
            zone.add(name, address.parse().unwrap());
        }
        zone
    }

    fn ask(name: &str, kind: RecordType, turn: usize) -> Option<Message> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        match answer(&query.to_vec().unwrap(), &zone(), turn, 512) {
            Answer::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            Answer::Forward => None,
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
    fn an_answer_that_is_too_long_is_cut_and_says_so() {
        let mut zone = Zone::default();
        for last in 0..200 {
            zone.add("many", IpAddr::from([10, 0, 0, last]));
        }
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("many.").unwrap(), RecordType::A));
        let Answer::Reply(bytes) = answer(&query.to_vec().unwrap(), &zone, 0, 512) else {
            panic!("no reply");
        };
        assert!(bytes.len() <= 512);
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&bytes, &zone(), 0, 512);
            let _ = failure(&bytes);
        }
    }
}
