//! Any text is a manifest or a list of problems; never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = berth::manifest::check_text(text, false);
});
