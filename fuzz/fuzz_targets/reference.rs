//! Any text is a name of an image or an error, and what is a name is written and read
//! the same.
#![no_main]

use berth::image::Reference;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(name) = text.parse::<Reference>() else { return };
    let again: Reference = name.to_string().parse().expect("what was written is a name");
    assert_eq!(again, name);
    let familiar: Reference = name.familiar().parse().expect("the short form is a name");
    assert_eq!(familiar.canonical(), name.canonical());
    assert!(!name.registry().contains('/') && !name.repository().is_empty());
});
