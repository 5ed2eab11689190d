//! The command line.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let root = std::path::PathBuf::from(&args[2]);
    let paths = berth::engine::paths::Paths::new(&root);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match args[3].as_str() {
        "up" => {
            let e = ["--root".into(), args[2].clone(), "engine".into()];
            match berth::keeper::start::up(&paths.lock(), &e) { Ok(code) => std::process::exit(code), Err(e) => { eprintln!("berth: {e}"); std::process::exit(1) } }
        }
        "engine" => berth::engine::start::run(berth::engine::start::Options { paths, dirs: vec![], echo: false }).unwrap(),
        _ => {}
    }
}
