//! Files to desired containers: the model, the readers of TOML and KDL, drop-ins,
//! templates, watching and diagnostics. What enters is what a person wrote and is
//! hostile until checked; what leaves is a [`model::Container`] that means the same
//! in whichever language it was written. Called by the engine and by the commands
//! that work offline. Knows nothing of what runs.

mod address;
pub mod calendar;
mod decode;
pub mod endpoint;
mod file;
mod load;
pub mod model;
pub mod namespaces;
pub mod network;
mod network_file;
mod node;
mod problem;
pub mod publish;
mod read_kdl;
mod read_toml;
mod references;
pub mod scalar;
mod schema;
pub mod service;
pub(crate) mod validate;
pub mod variants;
pub mod watch;
mod write;

pub use address::{http as http_address, tcp as tcp_address};
pub use load::{Definition, Loaded, Loader, NetworkDefinition};
pub use problem::{Problem, nearest};
pub use schema::{network_schema, schema};
pub use write::{network_to_toml, to_toml};

/// What is wrong with a container that did not come from a file, a sentence each.
pub fn objections(container: &model::Container) -> Vec<String> {
    let sentence = |objection: validate::Objection| match objection.hint {
        Some(hint) => format!("{}: {} ({hint})", objection.key, objection.message),
        None => format!("{}: {}", objection.key, objection.message),
    };
    validate::alone(container).into_iter().map(sentence).collect()
}

/// The same of a network.
pub fn network_objections(name: &str, network: &model::NetworkFile) -> Vec<String> {
    let usable = network::is_network_name(name) && !network::RESERVED_NETWORKS.contains(&name);
    let name_is_wrong = (!usable).then(|| format!("{name:?} can't be a network's name"));
    let others = validate::network_alone(name, network);
    name_is_wrong.into_iter().chain(others.into_iter().map(|found| found.message)).collect()
}

/// Reads one text as a manifest would be, for fuzzing: every problem, or none.
pub fn check_text(text: &str, is_kdl: bool) -> usize {
    if node::nests_too_deep(text) {
        return 1;
    }
    let tree = if is_kdl { read_kdl::read(text, 0) } else { read_toml::read(text, 0) };
    match tree {
        Ok(tree) => {
            let (mut container, faults) = decode::decode::<model::Container>(tree);
            if container.only_names_others() {
                container.kind = service::Kind::Target;
            }
            faults.len() + validate::alone(&container).len()
        }
        Err(faults) => faults.len().max(1),
    }
}
