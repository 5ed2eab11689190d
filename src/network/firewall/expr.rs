//! The few nftables expressions that we use, as data and as netlink attributes
//! (linux/netfilter/nf_tables.h). Pure.
//!
//! Registers are 4 bytes each and numbered from 0 here (`NFT_REG32_00` on); a value
//! takes as many as it needs.

/// Registers of 4 bytes.
pub type Register = u32;

/// What a chain does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This table has nothing against it.
    Accept,
    /// It is gone.
    Drop,
}

/// One expression of a rule. Comparisons end the rule when they fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a packet's property (`NFT_META_*`).
    Meta { key: u32, to: Register },
    /// Sets a packet's property.
    SetMeta { key: u32, from: Register },
    /// Loads bytes of a header: 0 link, 1 network, 2 transport.
    Payload { base: u32, offset: u32, length: u32, to: Register },
    /// Loads a connection's property (`NFT_CT_*`).
    Ct { key: u32, to: Register },
    /// Loads the type of the packet's destination address (`RTN_*`).
    DestinationType { to: Register },
    /// Masks bits.
    And { register: Register, mask: Vec<u8> },
    /// Goes on if the register has this value, or with `not` another one.
    Compare { register: Register, not: bool, value: Vec<u8> },
    /// Goes on if the set has the key, or with `not` has not; a map's value is loaded.
    Lookup { set: &'static str, key: Register, not: bool, value: Option<Register> },
    /// Loads a constant.
    Load { value: Vec<u8>, to: Register },
    /// Changes the destination to address and port in registers.
    Dnat { v6: bool, address: Register, port: Register },
    /// Changes the source to that of the interface it leaves by.
    Masquerade,
    /// Sends a copy to the neighbour whose address is in a register, by the interface
    /// whose index is in another.
    Duplicate { address: Register, device: Register },
    /// Ends the chain.
    Verdict(Verdict),
}

/// Attributes of netlink(7), one after the other.
#[derive(Debug, Default)]
pub(super) struct Attributes(pub Vec<u8>);

impl Attributes {
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Lengths are bounded by how messages are cut; an attribute holds at most 64 KiB.
        let length = (value.len() + 4) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) -> &mut Self {
        let mut inner = Attributes::default();
        fill(&mut inner);
        self.bytes(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }

    /// `NFTA_DATA_VALUE` in an attribute.
    pub fn data(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nested(kind, |data| {
            data.bytes(1, value);
        })
    }
}

/// `NFT_REG32_00`.
fn register(register: Register) -> u32 {
    register + 8
}

impl Expr {
    /// Its name and attributes.
    pub(super) fn emit(&self, out: &mut Attributes) {
        let named = |out: &mut Attributes, name: &str, fill: &dyn Fn(&mut Attributes)| {
            // NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }
            out.nested(1, |expr| {
                expr.text(1, name).nested(2, |data| fill(data));
            });
        };
        match self {
            Expr::Meta { key, to } => named(out, "meta", &|data| {
                data.number(2, *key).number(1, register(*to));
            }),
            Expr::SetMeta { key, from } => named(out, "meta", &|data| {
                data.number(2, *key).number(3, register(*from));
            }),
            Expr::Payload { base, offset, length, to } => named(out, "payload", &|data| {
                data.number(1, register(*to))
                    .number(2, *base)
                    .number(3, *offset)
                    .number(4, *length);
            }),
            Expr::Ct { key, to } => named(out, "ct", &|data| {
                data.number(2, *key).number(1, register(*to));
            }),
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
            Expr::DestinationType { to } => named(out, "fib", &|data| {
                data.number(1, register(*to)).number(2, 3).number(3, 2);
            }),
            Expr::And { register: at, mask } => named(out, "bitwise", &|data| {
                data.number(1, register(*at))
                    .number(2, register(*at))
                    .number(3, mask.len() as u32)
                    .data(4, mask)
                    .data(5, &vec![0; mask.len()]);
            }),
            Expr::Compare { register: at, not, value } => named(out, "cmp", &|data| {
                data.number(1, register(*at)).number(2, u32::from(*not)).data(3, value);
            }),
            Expr::Lookup { set, key, not, value } => named(out, "lookup", &|data| {
                data.text(1, set).number(2, register(*key));
                if let Some(value) = value {
                    data.number(3, register(*value));
                }
                data.number(5, u32::from(*not));
            }),
            Expr::Load { value, to } => named(out, "immediate", &|data| {
                data.number(1, register(*to)).data(2, value);
            }),
            Expr::Dnat { v6, address, port } => named(out, "nat", &|data| {
                let family = if *v6 { libc::AF_INET6 } else { libc::AF_INET } as u32;
                data.number(1, 1)
                    .number(2, family)
                    .number(3, register(*address))
                    .number(5, register(*port));
            }),
            Expr::Masquerade => named(out, "masq", &|_| {}),
            Expr::Duplicate { address, device } => named(out, "dup", &|data| {
                data.number(1, register(*address)).number(2, register(*device));
            }),
            Expr::Verdict(verdict) => named(out, "immediate", &|data| {
                let code = match verdict {
                    Verdict::Drop => 0,
                    Verdict::Accept => 1,
                };
                // Register 0 is the verdict's.
                data.number(1, 0).nested(2, |data| {
                    data.nested(2, |verdict| {
                        verdict.number(1, code);
                    });
                });
            }),
        }
    }
}
