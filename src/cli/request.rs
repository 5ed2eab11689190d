//! The flags of `run` as Docker's JSON. Pure, but for reading env-files.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Result;
use super::run_args::{Create, Limits};
use crate::api::create::docker_size;

/// Variables as Docker's client gives them: those of files, then those of flags; a name
/// alone has our own value.
pub fn environment(flags: &[String], files: &[PathBuf]) -> Result<Vec<String>> {
    let ours = |name: &str| std::env::var(name).ok();
    let mut all = Vec::new();
    for path in files {
        let fail = |error: String| format!("{}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let lines = crate::spec::env_file::parse(&bytes, ours).map_err(|e| fail(e.to_string()))?;
        all.extend(lines.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    for flag in flags {
        match flag.contains('=') {
            true => all.push(flag.clone()),
            false => all.extend(ours(flag).map(|value| format!("{flag}={value}"))),
        }
    }
    Ok(all)
}

fn pairs(flags: &[String]) -> Map<String, Value> {
    flags
        .iter()
        .map(|flag| flag.split_once('=').unwrap_or((flag, "")))
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect()
}

fn size(flag: &Option<String>) -> Result<Option<i64>> {
    let size = |text: &String| match text.as_str() {
        "-1" => Ok(-1),
        text => docker_size(text).map(|size| i64::try_from(size.0).unwrap_or(i64::MAX)),
    };
    Ok(flag.as_ref().map(size).transpose()?)
}

/// The body of `POST /containers/create`.
///
/// # Errors
/// A flag that says nothing sensible.
pub fn body(args: &Create, detach: bool, console: Option<(u16, u16)>) -> Result<Value> {
    let attached = !detach;
    let (exposed, bindings) = ports(&args.publish)?;
    let tmpfs: Map<String, Value> = args
        .tmpfs
        .iter()
        .map(|flag| flag.split_once(':').unwrap_or((flag, "")))
        .map(|(target, options)| (target.to_owned(), Value::from(options)))
        .collect();
    let mounts = args.mount.iter().map(|flag| mount(flag)).collect::<Result<Vec<_>>>()?;
    let ulimits = args.ulimit.iter().map(|flag| ulimit(flag)).collect::<Result<Vec<_>>>()?;
    let devices: Vec<Value> = args.device.iter().map(|flag| device(flag)).collect();
    let mut host = limits(&args.limits)?;
    host.extend(object(json!({
        "Binds": args.volume,
        "Mounts": mounts,
        "VolumesFrom": args.volumes_from,
        "Tmpfs": tmpfs,
        "PortBindings": bindings,
        "AutoRemove": args.rm,
        "NetworkMode": args.network,
        "PublishAllPorts": args.publish_all,
        "ExtraHosts": args.add_host,
        "Dns": args.dns,
        "DnsSearch": args.dns_search,
        "Init": args.init,
        "ReadonlyRootfs": args.read_only,
        "Privileged": args.privileged,
        "CapAdd": args.cap_add,
        "CapDrop": args.cap_drop,
        "SecurityOpt": args.security_opt,
        "UsernsMode": args.userns,
        "GroupAdd": args.group_add,
        "Devices": devices,
        "Sysctls": pairs(&args.sysctl),
        "Ulimits": ulimits,
        "ShmSize": size(&args.shm_size)?,
        "ConsoleSize": console.filter(|_| args.tty).map(|(rows, columns)| [rows, columns]),
    })));
    Ok(json!({
        "Image": args.image,
        "Cmd": args.command,
        "Entrypoint": args.entrypoint.as_ref().map(|program| vec![program]),
        "Hostname": args.hostname,
        "User": args.user,
        "WorkingDir": args.workdir,
        "Env": environment(&args.env, &args.env_file)?,
        "Labels": pairs(&args.label),
        "Tty": args.tty,
        "OpenStdin": args.interactive,
        "StdinOnce": args.interactive && attached,
        "AttachStdin": args.interactive && attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "StopSignal": args.stop_signal,
        "StopTimeout": args.stop_timeout,
        "Healthcheck": health(args)?,
        "ExposedPorts": exposed,
        "HostConfig": host,
        "NetworkingConfig": networking(args),
    }))
}

/// What is asked of the network that it is on.
fn networking(args: &Create) -> Value {
    let fixed = args.ip.is_some() || args.ip6.is_some();
    if args.network_alias.is_empty() && !fixed && args.mac_address.is_none() {
        return Value::Null;
    }
    let settings = json!({
        "Aliases": args.network_alias,
        "IPAMConfig": fixed.then(|| json!({ "IPv4Address": args.ip, "IPv6Address": args.ip6 })),
        "MacAddress": args.mac_address,
    });
    let network = args.network.as_deref().unwrap_or("bridge");
    json!({ "EndpointsConfig": { network: settings } })
}

/// The body of `POST /containers/{id}/update`, and a part of `HostConfig`.
///
/// # Errors
/// A flag that says nothing sensible.
pub fn limits(args: &Limits) -> Result<Map<String, Value>> {
    Ok(object(json!({
        "Memory": size(&args.memory)?,
        "MemorySwap": size(&args.memory_swap)?,
        "NanoCpus": args.cpus.map(|cpus| (cpus * 1e9) as i64),
        "CpuShares": args.cpu_shares,
        "CpusetCpus": args.cpuset_cpus,
        "PidsLimit": args.pids_limit,
        "RestartPolicy": args.restart.as_deref().map(restart).transpose()?,
    })))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn restart(text: &str) -> Result<Value> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    if !matches!(name, "no" | "on-failure" | "always" | "unless-stopped") {
        return Err(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        )
        .into());
    }
    let count: i64 = count
        .parse()
        .map_err(|_| "invalid restart policy format: maximum retry count must be an integer")?;
    Ok(json!({ "Name": name, "MaximumRetryCount": count }))
}

fn health(args: &Create) -> Result<Value> {
    if args.no_healthcheck {
        return Ok(json!({ "Test": ["NONE"] }));
    }
    let Some(command) = &args.health_cmd else {
        return Ok(Value::Null);
    };
    let nanos = |flag: &Option<String>| {
        let nanos = |text: &String| {
            humantime::parse_duration(text)
                .map(|time| time.as_nanos() as u64)
                .map_err(|error| format!("invalid duration {text:?}: {error}"))
        };
        flag.as_ref().map(nanos).transpose()
    };
    Ok(json!({
        "Test": ["CMD-SHELL", command],
        "Interval": nanos(&args.health_interval)?,
        "Timeout": nanos(&args.health_timeout)?,
        "StartPeriod": nanos(&args.health_start_period)?,
        "StartInterval": nanos(&args.health_start_interval)?,
        "Retries": args.health_retries,
    }))
}

/// `[IP:][HOST:]CONTAINER[/PROTOCOL]`, ranges of equal length on both sides.
fn ports(flags: &[String]) -> Result<(Map<String, Value>, Map<String, Value>)> {
    let (mut exposed, mut bindings) = (Map::new(), Map::<String, Value>::new());
    for flag in flags {
        let fail = || format!("invalid port: {flag:?}; write [IP:]HOST:CONTAINER[/udp]");
        let (rest, protocol) = flag.split_once('/').unwrap_or((flag, "tcp"));
        let (rest, inside) = match rest.rsplit_once(':') {
            Some((rest, inside)) => (Some(rest), inside),
            None => (None, rest),
        };
        let (ip, outside) = match rest {
            Some(rest) => match rest.rsplit_once(':') {
                Some((ip, outside)) => (ip.trim_matches(['[', ']']), outside),
                None => ("", rest),
            },
            None => ("", ""),
        };
        let range = |text: &str| -> std::result::Result<Vec<u16>, String> {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last): (u16, u16) =
                (first.parse().map_err(|_| fail())?, last.parse().map_err(|_| fail())?);
            if last < first { Err(fail()) } else { Ok((first..=last).collect()) }
        };
        let inside = range(inside)?;
        let outside = if outside.is_empty() { Vec::new() } else { range(outside)? };
        if !outside.is_empty() && outside.len() != inside.len() {
            return Err(fail().into());
        }
        for (at, port) in inside.iter().enumerate() {
            let key = format!("{port}/{protocol}");
            let host = outside.get(at).map(u16::to_string).unwrap_or_default();
            exposed.insert(key.clone(), json!({}));
            let list = bindings.entry(key).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!({ "HostIp": ip, "HostPort": host }));
            }
        }
    }
    Ok((exposed, bindings))
}

fn mount(flag: &str) -> Result<Value> {
    let mut mount = json!({ "Type": "volume" });
    let mut tmpfs = Map::new();
    for part in flag.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => mount["Type"] = Value::from(value),
            "source" | "src" => mount["Source"] = Value::from(value),
            "target" | "dst" | "destination" => mount["Target"] = Value::from(value),
            "readonly" | "ro" => mount["ReadOnly"] = Value::from(value != "false" && value != "0"),
            "tmpfs-size" => drop(tmpfs.insert("SizeBytes".into(), docker_size(value)?.0.into())),
            "tmpfs-mode" => {
                let mode = i64::from_str_radix(value, 8)
                    .map_err(|_| format!("invalid value for tmpfs-mode: {value}"))?;
                tmpfs.insert("Mode".into(), mode.into());
            }
            "bind-propagation" | "consistency" | "volume-nocopy" => {}
            _ => return Err(format!("unexpected key '{key}' in '{part}'").into()),
        }
    }
    if !tmpfs.is_empty() {
        mount["TmpfsOptions"] = Value::Object(tmpfs);
    }
    Ok(mount)
}

fn ulimit(flag: &str) -> Result<Value> {
    let fail = || format!("invalid ulimit argument: {flag}; write nofile=1024:2048");
    let (name, values) = flag.split_once('=').ok_or_else(fail)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| match text {
        "unlimited" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| fail()),
    };
    Ok(json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? }))
}

fn device(flag: &str) -> Value {
    let mut parts = flag.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut inside, mut access) = (host, "rwm");
    for part in parts {
        match part.bytes().all(|byte| b"rwm".contains(&byte)) {
            true => access = part,
            false => inside = part,
        }
    }
    json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn parsed(line: &str) -> Value {
        let line = Line::parse_from(std::iter::once("run").chain(line.split(' ')));
        body(&line.create, false, Some((40, 120))).unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn flags_mean_what_they_mean_to_docker() {
        let body = parsed(
            "-it --rm --name x -e A=1 -v data:/data -p 127.0.0.1:8080:80 -p 53:53/udp -w /tmp \
             --restart on-failure:3 -m 64m --cpus 1.5 --ulimit nofile=10:20 --init=false \
             --tmpfs /run:size=1m --mount type=bind,src=/a,dst=/b,readonly / sh -c true",
        );
        assert_eq!(body["Cmd"], json!(["sh", "-c", "true"]));
        assert_eq!(body["Env"], json!(["A=1"]));
        assert_eq!((&body["Tty"], &body["StdinOnce"]), (&json!(true), &json!(true)));
        let host = &body["HostConfig"];
        assert_eq!(host["Memory"], 64 << 20);
        assert_eq!(host["NanoCpus"], 1_500_000_000);
        assert_eq!(host["ConsoleSize"], json!([40, 120]));
        assert_eq!(host["Init"], false);
        assert_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(
            host["PortBindings"]["80/tcp"],
            json!([{"HostIp": "127.0.0.1", "HostPort": "8080"}])
        );
        assert_eq!(host["PortBindings"]["53/udp"][0]["HostPort"], "53");
        assert_eq!(host["Mounts"][0]["ReadOnly"], true);
        assert_eq!(host["Tmpfs"], json!({"/run": "size=1m"}));
    }

    #[test]
    fn options_end_at_the_image() {
        let body = parsed("-t alpine ls -la --name");
        assert_eq!(body["Cmd"], json!(["ls", "-la", "--name"]));
        assert_eq!(body["Image"], "alpine");
    }

    #[test]
    fn ranges_and_nonsense() {
        let ports = |flag: &str| ports(&[flag.to_owned()]);
        assert_eq!(ports("8000-8002:80-82").unwrap_or_default().1.len(), 3);
        assert!(ports("8000-8001:80").is_err());
        assert!(ports("x:80").is_err());
        assert!(mount("nonsense=1").is_err());
        assert!(ulimit("nofile").is_err());
        assert!(restart("sometimes").is_err());
    }
}
