//! bpf(2), as far as a device program of a cgroup needs it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One instruction of eBPF (RFC 9669).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LDX_MEM_W: u8 = 0x61;
const MOV64_REG: u8 = 0xbf;
const MOV64_IMM: u8 = 0xb7;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JNE32_IMM: u8 = 0x56;
const EXIT: u8 = 0x95;

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Self {
        Instruction { code, registers: from << 4 | to, offset, immediate: immediate as i32 }
    }

    /// `to = *(u32 *)(from + offset)`
    pub const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(LDX_MEM_W, to, from, offset, 0)
    }

    /// `to = from`
    pub const fn copy(to: u8, from: u8) -> Self {
        Self::new(MOV64_REG, to, from, 0, 0)
    }

    /// `to = value`
    pub const fn set(to: u8, value: u32) -> Self {
        Self::new(MOV64_IMM, to, 0, 0, value)
    }

    /// `to &= mask`
    pub const fn and(to: u8, mask: u32) -> Self {
        Self::new(AND32_IMM, to, 0, 0, mask)
    }

    /// `to >>= bits`
    pub const fn shift_right(to: u8, bits: u32) -> Self {
        Self::new(RSH32_IMM, to, 0, 0, bits)
    }

    /// Jumps (where to: [`Instruction::set_jump`]) unless `register == value`.
    pub const fn jump_unless_equal(register: u8, value: u32) -> Self {
        Self::new(JNE32_IMM, register, 0, 0, value)
    }

    /// Ends the program with register 0.
    pub const fn exit() -> Self {
        Self::new(EXIT, 0, 0, 0, 0)
    }

    /// Where a jump goes: over so many instructions. Nothing for any other.
    pub fn set_jump(&mut self, over: usize) {
        if self.code == JNE32_IMM {
            self.offset = i16::try_from(over).unwrap_or(i16::MAX);
        }
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program; the verifier checks it.
pub fn load_device_program(code: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` is a bpf_attr for BPF_PROG_LOAD of the size given; the code
    // and the license outlive the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&load), size_of::<Load>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup2 directory; it stays with the group.
pub fn attach_device_program(cgroup: OwnedFd, program: OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attach` is a bpf_attr for BPF_PROG_ATTACH of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            std::ptr::from_ref(&attach),
            size_of::<Attach>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a program as the kernel would, for tests: `context` is what r1 points to.
#[cfg(test)]
pub fn interpret(code: &[Instruction], context: [u32; 3]) -> u64 {
    let mut registers = [0u64; 11];
    let mut at = 0;
    loop {
        let instruction = code[at];
        let (to, from) =
            (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
        let immediate = instruction.immediate as u32;
        at += 1;
        match instruction.code {
            LDX_MEM_W => registers[to] = u64::from(context[instruction.offset as usize / 4]),
            MOV64_REG => registers[to] = registers[from],
            MOV64_IMM => registers[to] = u64::from(immediate),
            AND32_IMM => registers[to] = u64::from(registers[to] as u32 & immediate),
            RSH32_IMM => registers[to] = u64::from(registers[to] as u32 >> immediate),
            JNE32_IMM if registers[to] as u32 != immediate => at += instruction.offset as usize,
            JNE32_IMM => {}
            EXIT => return registers[0],
            other => panic!("instruction {other:#x}"),
        }
    }
}
