//! Registries: logins and settings.

use super::*;

#[test]
fn logins_are_tried_kept_and_forgotten() {
    let Some(registry) = Registry::start(Kind::Password) else { return };
    let berth = with_base(&[]);
    let work = tempfile::tempdir().unwrap();
    let config = work.path().display().to_string();
    let env = [("DOCKER_CONFIG", config.as_str())];
    let host = registry.host();
    let name = format!("{host}/base:1");
    berth.ok(&["tag", "base:1", &name]);
    let (good, said) = piped(&berth, &["push", &name], b"", &env);
    assert!(!good && said.contains("berth login"), "{said}");
    let login = ["login", "-u", "me", "--password-stdin", host.as_str()];
    let (good, said) = piped(&berth, &login, b"wrong", &env);
    assert!(!good && said.contains("401"), "{said}");
    assert!(!work.path().join("config.json").exists());
    let (good, said) = piped(&berth, &login, b"secret\n", &env);
    assert!(good && said.contains("Login Succeeded"), "{said}");
    let mode = fs::metadata(work.path().join("config.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for args in [["push", name.as_str()], ["pull", name.as_str()]] {
        let (good, said) = piped(&berth, &args, b"", &env);
        assert!(good, "{said}");
    }
    let (good, said) = piped(&berth, &["logout", &host], b"", &env);
    assert!(good && said.contains("Removing login credentials"), "{said}");
    assert!(!piped(&berth, &["pull", &name], b"", &env).0);

    // A helper program keeps it instead.
    let helper = work.path().join("docker-credential-test");
    fs::write(
        &helper,
        format!(
            "#!/bin/sh\nkept={config}/kept\ncase $1 in\n store) cat > $kept ;;\n erase) rm $kept ;;\n \
             get) cat $kept 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\nesac\n"
        ),
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(work.path().join("config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let path = format!("{config}:{}", std::env::var("PATH").unwrap());
    let env = [env[0], ("PATH", path.as_str())];
    assert!(!piped(&berth, &["pull", &name], b"", &env).0);
    assert!(piped(&berth, &login, b"secret", &env).0);
    assert!(!fs::read_to_string(work.path().join("config.json")).unwrap().contains("auth"));
    let (good, said) = piped(&berth, &["pull", &name], b"", &env);
    assert!(good, "{said}");
    assert!(piped(&berth, &["logout", &host], b"", &env).0);
    assert!(!piped(&berth, &["pull", &name], b"", &env).0);
}

/// `registries.toml`: an authority of one's own, plain HTTP, a mirror; read anew each time.
#[test]
fn registries_are_reached_as_the_file_says() {
    let (Some(tls), Some(plain)) = (Registry::start(Kind::Tls), Registry::start(Kind::Plain))
    else {
        return;
    };
    let berth = with_base(&[]);
    let file = berth.path("etc/berth/registries.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let name = format!("{}/base:1", tls.host());
    berth.ok(&["tag", "base:1", &name]);
    // A loopback address is asked by plain HTTP unless something else is said.
    assert!(!berth.cli(&["push", &name]).status.success());
    let settings = format!(
        "[registry.\"{}\"]\nca = [\"{}\"]\n[registry.\"docker.io\"]\nmirrors = [\"http://{}\"]\n",
        tls.host(),
        tls.file("ca.pem").display(),
        plain.host()
    );
    fs::write(&file, settings).unwrap();
    berth.ok(&["push", &name]);
    berth.ok(&["pull", &name]);
    let mirrored = format!("{}/library/mirrored:1", plain.host());
    berth.ok(&["tag", "base:1", &mirrored]);
    berth.ok(&["push", &mirrored]);
    berth.ok(&["rmi", &mirrored]);
    berth.ok(&["pull", "mirrored:1"]);
    fs::write(&file, "[registry.x]\nmirror = []\n").unwrap();
    let refused = berth.cli(&["pull", &name]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("registries.toml"), "{said}");
}
