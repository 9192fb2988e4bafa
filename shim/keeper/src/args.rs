//! The command line that containerd gives a shim: flags in the manner of Go's `flag` package, then the action.

#[derive(Debug, Default, Clone, PartialEq)]
pub struct Args {
    pub namespace: String,
    pub id: String,
    /// containerd's gRPC socket; the name of the shim's own socket is derived from it.
    pub address: String,
    pub publish_binary: String,
    pub bundle: String,
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    /// `start`, `delete`; `keep`, `serve` and `document` for the shim's own processes.
    pub action: String,
}

impl Args {
    /// `-x v`, `-x=v`, `--x v`, `--x=v`; switches take no separate value. Ends at the first argument without a dash.
    ///
    /// # Errors
    /// An unknown flag, or one without its value.
    pub fn parse(list: impl IntoIterator<Item = String>) -> Result<Args, String> {
        let mut out = Args::default();
        let mut list = list.into_iter();
        while let Some(arg) = list.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                out.action = arg;
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (flag, None),
            };
            let switch = match name {
                "debug" => Some(&mut out.debug),
                "v" | "version" => Some(&mut out.version),
                "info" => Some(&mut out.info),
                _ => None,
            };
            if let Some(switch) = switch {
                *switch = !matches!(value.as_deref(), Some("false" | "0" | "f"));
                continue;
            }
            let place = match name {
                "namespace" => &mut out.namespace,
                "id" => &mut out.id,
                "address" => &mut out.address,
                "publish-binary" => &mut out.publish_binary,
                "bundle" => &mut out.bundle,
                _ => return Err(format!("flag provided but not defined: -{name}")),
            };
            *place = value
                .or_else(|| list.next())
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?;
        }
        Ok(out)
    }
}

/// A namespace or id becomes part of paths and socket names: containerd's identifiers (pkg/identifiers) and no more.
///
/// # Errors
/// Says which value is not one.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
    if name.is_empty()
        || name.len() > 1024
        || name == "."
        || name == ".."
        || !name.chars().all(plain)
    {
        return Err(format!("{what} {name:?} is not an identifier"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn as_containerd_writes_them() {
        let a =
            parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id x -debug start")
                .unwrap();
        assert_eq!(
            (a.namespace.as_str(), a.id.as_str(), a.action.as_str()),
            ("k8s.io", "x", "start")
        );
        assert!(a.debug);
        assert_eq!(parse("--namespace=a --id=b delete").unwrap().action, "delete");
        assert!(!parse("-debug=false").unwrap().debug);
        assert!(parse("-nope").is_err());
        assert!(parse("-id").is_err());
    }

    #[test]
    fn names_are_no_paths() {
        assert!(check_name("id", "a-b_c.d").is_ok());
        for bad in ["", ".", "..", "a/b", "a b"] {
            assert!(check_name("id", bad).is_err(), "{bad:?}");
        }
    }
}
