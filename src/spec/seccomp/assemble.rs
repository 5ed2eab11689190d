//! The few BPF instructions that a filter needs (Linux,
//! Documentation/networking/filter.rst), and code blocks that fit together.
//!
//! A [`Code`] never falls off its end: each way through it ends in a return. So
//! blocks are joined by a branch in front, and no label is needed.

use oci_spec::runtime::LinuxSeccompOperator as Operator;
use seccompiler::sock_filter;

/// Offsets in `struct seccomp_data` (seccomp(2)).
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

impl Test {
    fn code(self) -> u16 {
        match self {
            Test::Equal => 0x15,          // BPF_JMP | BPF_JEQ | BPF_K
            Test::Greater => 0x25,        // BPF_JMP | BPF_JGT | BPF_K
            Test::GreaterOrEqual => 0x35, // BPF_JMP | BPF_JGE | BPF_K
        }
    }
}

/// Instructions of which every way through ends in a return.
pub(super) type Code = Vec<sock_filter>;

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub index: u8,
    /// How it is compared.
    pub operator: Operator,
    /// With what; the mask of a masked comparison.
    pub value: u64,
    /// What the masked argument must be.
    pub value_two: u64,
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Ends the filter with a `SECCOMP_RET_*` value.
pub(super) fn answer(action: u32) -> Code {
    vec![statement(RETURN, action)]
}

/// Loads the architecture, then goes on.
pub(super) fn on_arch(code: Code) -> Code {
    [vec![statement(LOAD, ARCH)], code].concat()
}

/// Loads the system call's number, then goes on.
pub(super) fn on_number(code: Code) -> Code {
    [vec![statement(LOAD, NR)], code].concat()
}

/// `then` if the test holds, `otherwise` if not.
pub(super) fn branch(test: Test, k: u32, then: Code, otherwise: Code) -> Code {
    let mut code = match u8::try_from(then.len()) {
        Ok(skip) => vec![sock_filter { code: test.code(), jt: 0, jf: skip, k }],
        // A conditional jump reaches 255 instructions, an unconditional one any.
        Err(_) => vec![
            sock_filter { code: test.code(), jt: 1, jf: 0, k },
            statement(JUMP, u32::try_from(then.len()).unwrap_or(u32::MAX)),
        ],
    };
    code.extend(then);
    code.extend(otherwise);
    code
}

/// Where a step of a condition goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

/// `action` if all conditions hold, `otherwise` if not. There are at most six
/// conditions, so every jump is short.
pub(super) fn guarded(conditions: &[Condition], action: u32, otherwise: Code) -> Code {
    let blocks: Vec<Vec<(sock_filter, To, To)>> = conditions.iter().map(steps).collect();
    let length: usize = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Code::with_capacity(length + otherwise.len());
    for block in blocks {
        let end = code.len() + block.len();
        for (mut instruction, yes, no) in block {
            let here = code.len() + 1;
            let offset = |to: To| match to {
                To::Next => 0,
                To::Holds => u8::try_from(end - here).unwrap_or(u8::MAX),
                To::Fails => u8::try_from(length - here).unwrap_or(u8::MAX),
            };
            instruction.jt = offset(yes);
            instruction.jf = offset(no);
            code.push(instruction);
        }
    }
    code.push(statement(RETURN, action));
    code.extend(otherwise);
    code
}

/// The comparison of a 64-bit argument by its two halves, the upper one first.
fn steps(condition: &Condition) -> Vec<(sock_filter, To, To)> {
    let low_at = ARGS + 8 * u32::from(condition.index);
    let load_low = || (statement(LOAD, low_at), To::Next, To::Next);
    let load_high = || (statement(LOAD, low_at + 4), To::Next, To::Next);
    let (high, low) = halves(condition.value);
    let test = |test: Test, k: u32| statement(test.code(), k);
    let compare = |last: Test, holds: To, fails: To| {
        vec![
            load_high(),
            (test(Test::Greater, high), holds, To::Next),
            (test(Test::Equal, high), To::Next, fails),
            load_low(),
            (test(last, low), holds, fails),
        ]
    };
    match condition.operator {
        Operator::ScmpCmpEq => vec![
            load_high(),
            (test(Test::Equal, high), To::Next, To::Fails),
            load_low(),
            (test(Test::Equal, low), To::Holds, To::Fails),
        ],
        Operator::ScmpCmpNe => vec![
            load_high(),
            (test(Test::Equal, high), To::Next, To::Holds),
            load_low(),
            (test(Test::Equal, low), To::Fails, To::Holds),
        ],
        Operator::ScmpCmpGt => compare(Test::Greater, To::Holds, To::Fails),
        Operator::ScmpCmpGe => compare(Test::GreaterOrEqual, To::Holds, To::Fails),
        Operator::ScmpCmpLe => compare(Test::Greater, To::Fails, To::Holds),
        Operator::ScmpCmpLt => compare(Test::GreaterOrEqual, To::Fails, To::Holds),
        Operator::ScmpCmpMaskedEq => {
            let (wanted_high, wanted_low) = halves(condition.value_two);
            vec![
                load_high(),
                (statement(AND, high), To::Next, To::Next),
                (test(Test::Equal, wanted_high), To::Next, To::Fails),
                load_low(),
                (statement(AND, low), To::Next, To::Next),
                (test(Test::Equal, wanted_low), To::Holds, To::Fails),
            ]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
