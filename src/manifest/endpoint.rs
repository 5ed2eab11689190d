//! What a container asks of its interface on a network, in the names that Docker's drivers
//! give it. Options that Berth has no use for are kept and told.

use super::network::Member;

/// The interface's name in the container.
pub const IFNAME: &str = "com.docker.network.endpoint.ifname";
/// Kernel parameters of the interface: `net.ipv4.conf.IFNAME.log_martians=1,…`.
pub const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// The longest name of an interface (`IFNAMSIZ` without its end).
const IFNAME_MAX: usize = 15;

impl Member {
    /// The name that its interface is to have.
    pub fn interface(&self) -> Option<&str> {
        self.options.get(IFNAME).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Files below `/proc/sys/net`, in which `IFNAME` stands for the interface, and values.
    ///
    /// # Errors
    /// Docker's sentence about one that can't be.
    pub fn sysctls(&self) -> Result<Vec<(String, String)>, String> {
        let text = self.options.get(SYSCTLS).map(String::as_str).unwrap_or_default();
        let one = |setting: &str| {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                format!("unable to parse sysctls {text:?}: {setting:?} has no '='")
            })?;
            let parts: Vec<&str> = key.split('.').collect();
            let is_word = |part: &&str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            };
            match parts.as_slice() {
                // Docker's command writes all of it in small letters.
                ["net", family, kind, interface, name]
                    if interface.eq_ignore_ascii_case("IFNAME")
                        && [family, kind, name].into_iter().all(is_word) =>
                {
                    Ok((format!("{family}/{kind}/IFNAME/{name}"), value.to_owned()))
                }
                _ => Err(format!(
                    "unrecognised network interface sysctl '{setting}'; represent \
                     'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'"
                )),
            }
        };
        text.split(',').filter(|setting| !setting.is_empty()).map(one).collect()
    }

    /// What can't be of what is asked of its interface.
    ///
    /// # Errors
    /// In one sentence.
    pub fn check(&self) -> Result<(), String> {
        self.sysctls()?;
        let Some(name) = self.interface() else { return Ok(()) };
        let usable = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
        let fits = name.len() <= IFNAME_MAX && name.chars().all(usable);
        match fits && !matches!(name, "." | ".." | "lo" | "all" | "default") {
            true => Ok(()),
            false => Err(format!("{name:?} can't be the name of an interface")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_of_its_own_interface_alone() {
        let member = |key: &str, value: &str| {
            let mut member = Member::of("back");
            member.options.insert(key.to_owned(), value.to_owned());
            member
        };
        let good =
            member(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.mtu=1400");
        assert_eq!(
            good.sysctls().unwrap()[1],
            ("ipv6/conf/IFNAME/mtu".to_owned(), "1400".to_owned())
        );
        let small = member(SYSCTLS, "net.ipv4.conf.ifname.forwarding=0");
        assert_eq!(small.sysctls().unwrap()[0].0, "ipv4/conf/IFNAME/forwarding");
        for bad in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.forwarding=1",
            "net.ipv4/../..conf.IFNAME.x=1",
            "kernel.a.b.IFNAME.c=1",
            "net.ipv4.conf.IFNAME.x",
        ] {
            assert!(member(SYSCTLS, bad).check().is_err(), "{bad}");
        }
        assert_eq!(member(IFNAME, "wan0").check(), Ok(()));
        for bad in ["lo", "..", "a/b", "a b", "a-name-too-long-for-it", "a:1"] {
            assert!(member(IFNAME, bad).check().is_err(), "{bad}");
        }
        assert_eq!(member("com.example.other", "x").check(), Ok(()));
    }
}
