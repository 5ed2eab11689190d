//! Which devices a container may open, for one that has the host's user ids and
//! so could make any device node: v1's `devices` controller, or a program that
//! the kernel asks on v2 (`BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::fs;
use std::io;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{Cgroup, Error, Result};
use crate::sys::bpf::{self, Instruction};

/// Access bits, as `struct bpf_cgroup_dev_ctx` has them.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
/// Device kinds there.
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

/// One allowed device; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Cgroup {
    /// Allows the devices of these rules (OCI runtime-spec, config-linux, "Allowed
    /// Device list") and no others.
    ///
    /// # Errors
    /// The kernel refuses the rules.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        if self.unified {
            let Some(dir) = &self.v2 else { return Ok(()) };
            let allowed: Vec<Rule> = rules.iter().filter(|rule| rule.allow()).map(rule).collect();
            let attach = || -> io::Result<()> {
                let program = bpf::load_device_program(&program(&allowed))?;
                bpf::attach_device_program(fs::File::open(dir)?.into(), program)
            };
            return attach().map_err(|error| {
                Error::new(format!("restricting the devices of {}", dir.display()), error)
            });
        }
        let Some(dir) = self.enter("devices")? else {
            return Ok(());
        };
        let write = |file: &str, value: &str| {
            let path = dir.join(file);
            fs::write(&path, value).map_err(|error| {
                Error::new(format!("writing {value:?} to {}", path.display()), error)
            })
        };
        write("devices.deny", "a")?;
        for rule in rules.iter().filter(|rule| rule.allow()) {
            write("devices.allow", &line(rule))?;
        }
        Ok(())
    }
}

fn rule(of: &LinuxDeviceCgroup) -> Rule {
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let access = of.access().as_deref().unwrap_or("rwm").chars().fold(0, |bits, letter| {
        bits | match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        }
    });
    Rule {
        kind: match of.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
            _ => None,
        },
        major: number(of.major()),
        minor: number(of.minor()),
        access,
    }
}

/// A line of `devices.allow`.
fn line(of: &LinuxDeviceCgroup) -> String {
    let Rule { kind, major, minor, .. } = rule(of);
    let kind = match kind {
        Some(BLOCK) => 'b',
        Some(_) => 'c',
        None => 'a',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let access = of.access().as_deref().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(major), number(minor))
}

/// The program: each rule in turn; the first that fits answers 1, none answers 0.
/// r1 is the context: access and kind in one word (kind low), major, minor.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        Instruction::load_word(2, 1, 0),
        Instruction::load_word(4, 1, 4),
        Instruction::load_word(5, 1, 8),
        Instruction::copy(3, 2),
        Instruction::and(2, 0xffff),
        Instruction::shift_right(3, 16),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push(vec![Instruction::jump_unless_equal(2, kind)]);
        }
        if rule.access != READ | WRITE | MKNOD {
            // Nothing may be asked that the rule does not allow.
            tests.push(vec![
                Instruction::copy(6, 3),
                Instruction::and(6, !rule.access & (READ | WRITE | MKNOD)),
                Instruction::jump_unless_equal(6, 0),
            ]);
        }
        if let Some(major) = rule.major {
            tests.push(vec![Instruction::jump_unless_equal(4, major)]);
        }
        if let Some(minor) = rule.minor {
            tests.push(vec![Instruction::jump_unless_equal(5, minor)]);
        }
        let mut body: Vec<Instruction> = tests.into_iter().flatten().collect();
        body.extend([Instruction::set(0, 1), Instruction::exit()]);
        let len = body.len();
        for (index, instruction) in body.iter_mut().enumerate() {
            // A test that fails goes on behind the rule.
            instruction.set_jump(len - index - 1);
        }
        code.extend(body);
    }
    code.extend([Instruction::set(0, 0), Instruction::exit()]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_lines_and_programs() {
        let rules = crate::spec::devices::default_rules();
        let lines: Vec<String> = rules.iter().filter(|rule| rule.allow()).map(line).collect();
        assert!(lines.contains(&"c 1:3 rwm".to_owned()), "{lines:?}");
        let allowed: Vec<Rule> = rules.iter().filter(|r| r.allow()).map(rule).collect();
        let ask = |kind, access, major, minor| {
            bpf::interpret(&program(&allowed), [access << 16 | kind, major, minor])
        };
        assert_eq!(ask(CHAR, READ | WRITE, 1, 3), 1, "null may be opened");
        assert_eq!(ask(BLOCK, READ, 254, 0), 0, "a disk may not");
        assert_eq!(ask(CHAR, READ, 1, 1), 0, "nor memory");
    }
}
