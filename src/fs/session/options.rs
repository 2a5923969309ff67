//! Which options does a mount have, and how does fstab spell them?
//!
//! May depend on the standard library and libc only.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the kernel is told about the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse every change with EROFS, in the kernel.
    pub read_only: bool,
    /// Admit users other than the one who mounts.
    pub allow_other: bool,
    /// Let the kernel check modes and owners; always true, or read-only views would not be.
    pub default_permissions: bool,
    /// The source that `mount` and `df` show: the home.
    pub fs_name: String,
    /// The part of the type after `fuse.`.
    pub subtype: String,
    /// No device nodes. The tree has none.
    pub nodev: bool,
    /// No setuid programs. The tree has none. fusermount3 insists on both for ordinary users.
    pub nosuid: bool,
    /// No programs at all.
    pub noexec: bool,
    /// No access times.
    pub noatime: bool,
    /// Every write is synchronous.
    pub synchronous: bool,
}

impl MountOptions {
    /// The options of a plain writable mount of `home`.
    pub fn new(home: &Path) -> MountOptions {
        MountOptions {
            read_only: false,
            allow_other: false,
            default_permissions: true,
            fs_name: home.to_string_lossy().into_owned(),
            subtype: "rolloutfs".to_owned(),
            nodev: true,
            nosuid: true,
            noexec: false,
            noatime: true,
            synchronous: false,
        }
    }

    /// Takes over what `-o` said. `dev` and `suid` are accepted there and change nothing: mount(8)
    /// adds them for root by itself, and the tree has neither devices nor setuid programs.
    pub fn apply(&mut self, dash_o: &DashO) {
        self.read_only = dash_o.read_only.unwrap_or(self.read_only);
        self.allow_other = dash_o.allow_other.unwrap_or(self.allow_other);
        self.noexec = dash_o.exec.map_or(self.noexec, |exec| !exec);
        self.noatime = dash_o.atime.map_or(self.noatime, |atime| !atime);
        self.synchronous = dash_o.synchronous.unwrap_or(self.synchronous);
    }

    /// The flags for `mount(2)`.
    pub(super) fn kernel_flags(&self) -> libc::c_ulong {
        [
            (self.read_only, libc::MS_RDONLY),
            (self.nodev, libc::MS_NODEV),
            (self.nosuid, libc::MS_NOSUID),
            (self.noexec, libc::MS_NOEXEC),
            (self.noatime, libc::MS_NOATIME),
            (self.synchronous, libc::MS_SYNCHRONOUS),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// The data for `mount(2)`; `root_mode` is the file type of the mount point. No `max_read`: the
    /// kernel's own limit is the best.
    pub(super) fn kernel_data(&self, device: RawFd, root_mode: u32) -> String {
        // SAFETY: getuid and getgid have no arguments and cannot fail.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        let mut data = format!("fd={device},rootmode={root_mode:o},user_id={uid},group_id={gid}");
        for (wanted, name) in self.fuse_words() {
            if wanted {
                data.push(',');
                data.push_str(name);
            }
        }
        data
    }

    /// The text for `fusermount3 -o`.
    pub(super) fn helper_text(&self) -> String {
        let words = [
            (self.read_only, "ro"),
            (self.nodev, "nodev"),
            (self.nosuid, "nosuid"),
            (self.noexec, "noexec"),
            (self.noatime, "noatime"),
            (self.synchronous, "sync"),
        ];
        let words = words.into_iter().chain(self.fuse_words());
        let mut text: Vec<String> =
            words.filter(|(wanted, _)| *wanted).map(|(_, name)| name.to_owned()).collect();
        text.push(format!("fsname={}", escape(&self.fs_name)));
        text.push(format!("subtype={}", escape(&self.subtype)));
        text.join(",")
    }

    /// What FUSE itself understands.
    fn fuse_words(&self) -> [(bool, &'static str); 2] {
        [(self.default_permissions, "default_permissions"), (self.allow_other, "allow_other")]
    }
}

/// Escapes what separates options for fusermount3.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// What `-o` said; `None` where it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DashO {
    /// `ro` or `rw`.
    pub read_only: Option<bool>,
    /// `allow_other`.
    pub allow_other: Option<bool>,
    /// `default_permissions`, which is always on.
    pub default_permissions: Option<bool>,
    /// `uid=`: the owner shown for every file.
    pub uid: Option<u32>,
    /// `gid=`: the group shown for every file.
    pub gid: Option<u32>,
    /// `umask=`, in octal: the mode bits taken away from every file.
    pub umask: Option<u32>,
    /// `dev` or `nodev`.
    pub dev: Option<bool>,
    /// `suid` or `nosuid`.
    pub suid: Option<bool>,
    /// `exec` or `noexec`.
    pub exec: Option<bool>,
    /// `atime`, `relatime` or `strictatime`, against `noatime`.
    pub atime: Option<bool>,
    /// `sync` or `async`.
    pub synchronous: Option<bool>,
    /// `state-dir=`.
    pub state_dir: Option<PathBuf>,
    /// `views=`, names separated by `:`.
    pub views: Option<Vec<String>>,
    /// `views-as=`: `symlinks` or `files`.
    pub views_as: Option<String>,
    /// `rm=`: `trash`, `deny` or `delete`.
    pub rm: Option<String>,
    /// `materialize=`: `user-message`, `fsync` or `create`.
    pub materialize: Option<String>,
    /// `io=`: a mode, as `--io` has it; not checked here.
    pub io: Option<String>,
    /// `cache-bytes=`: a number of bytes, with K, M or G for powers of 1024.
    pub cache_bytes: Option<u64>,
    /// `log-file=`.
    pub log_file: Option<PathBuf>,
    /// `poll=`: seconds.
    pub poll: Option<Duration>,
    /// `threads=`: 1 to [`super::THREADS_MAX`].
    pub threads: Option<usize>,
}

/// Seconds between two comparisons that may be asked for.
const POLL_SECONDS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

/// Options that speak to mount(8), systemd or the reader of fstab, not to us.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
    "nostrictatime",
    "norelatime",
];

/// Reads options as fstab and `mount -t fuse.rolloutfs -o` give them: separated by `,`; a `,` or a `\`
/// within a value is written `\,` and `\\`, or the value stands in double quotes. The later of two
/// contradicting options counts, as for mount(8).
pub fn parse_dash_o(text: &str) -> Result<DashO, String> {
    let mut parsed = DashO::default();
    for option in split(text)? {
        match option.split_once('=') {
            Some((name, value)) => parsed.set_value(name, value)?,
            None => parsed.set_word(&option)?,
        }
    }
    Ok(parsed)
}

impl DashO {
    /// An option without a value.
    fn set_word(&mut self, name: &str) -> Result<(), String> {
        match name {
            "ro" => self.read_only = Some(true),
            "rw" => self.read_only = Some(false),
            "allow_other" => self.allow_other = Some(true),
            "default_permissions" => self.default_permissions = Some(true),
            "dev" | "nodev" => self.dev = Some(name == "dev"),
            "suid" | "nosuid" => self.suid = Some(name == "suid"),
            "exec" | "noexec" => self.exec = Some(name == "exec"),
            "atime" | "relatime" | "strictatime" => self.atime = Some(true),
            "noatime" => self.atime = Some(false),
            "sync" | "dirsync" => self.synchronous = Some(true),
            "async" => self.synchronous = Some(false),
            "" => {}
            _ if IGNORED.contains(&name) || is_for_others(name) => {}
            _ if VALUED.contains(&name) => {
                return Err(format!("option `{name}` in -o needs a value: `{name}=...`"));
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// An option `name=value`.
    fn set_value(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = |expected: &str| format!("option `{name}={value}` in -o: expected {expected}");
        match name {
            "uid" => self.uid = Some(value.parse().map_err(|_| bad("a numeric user id"))?),
            "gid" => self.gid = Some(value.parse().map_err(|_| bad("a numeric group id"))?),
            "umask" => self.umask = Some(octal_mode(value).ok_or_else(|| bad("octal, at most 777"))?),
            "state-dir" => self.state_dir = Some(path(value).ok_or_else(|| bad("a path"))?),
            "log-file" => self.log_file = Some(path(value).ok_or_else(|| bad("a path"))?),
            "views" => self.views = Some(names(value).ok_or_else(|| bad("view names separated by `:`"))?),
            "views-as" if matches!(value, "symlinks" | "files") => self.views_as = Some(value.to_owned()),
            "views-as" => return Err(bad("`symlinks` or `files`")),
            "rm" if matches!(value, "trash" | "deny" | "delete") => self.rm = Some(value.to_owned()),
            "rm" => return Err(bad("`trash`, `deny` or `delete`")),
            "materialize" if matches!(value, "user-message" | "fsync" | "create") => {
                self.materialize = Some(value.to_owned());
            }
            "materialize" => return Err(bad("`user-message`, `fsync` or `create`")),
            "io" if value.is_empty() => return Err(bad("a mode, as --io has it")),
            "io" => self.io = Some(value.to_owned()),
            "cache-bytes" => {
                self.cache_bytes = Some(bytes(value).ok_or_else(|| bad("bytes, with K, M or G"))?);
            }
            "poll" => self.poll = Some(poll_interval(value).ok_or_else(|| bad("seconds, 0.1 to 86400"))?),
            "threads" => self.threads = Some(threads(value).ok_or_else(|| bad("a number from 1 to 64"))?),
            // mount(8) gives `user=NAME` where fstab has `user`.
            "user" | "comment" => {}
            _ if is_for_others(name) => {}
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// The options of ours that need a value.
const VALUED: &[&str] = &[
    "uid",
    "gid",
    "umask",
    "state-dir",
    "log-file",
    "views",
    "views-as",
    "rm",
    "materialize",
    "io",
    "cache-bytes",
    "poll",
    "threads",
];

/// Is it for programs that read fstab (`x-systemd.automount`, `X-mount.mkdir`, `comment`)?
fn is_for_others(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-") || name == "comment"
}

/// The error for an option nobody knows.
fn unknown(name: &str) -> String {
    format!("unknown option `{name}` in -o; ours are ro, rw, allow_other, {}", VALUED.join("=, ") + "=")
}

/// Splits at `,`, honouring `\` and double quotes.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut options = vec![];
    let mut option = String::new();
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => option.push(characters.next().unwrap_or('\\')),
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(std::mem::take(&mut option)),
            _ => option.push(character),
        }
    }
    if quoted {
        return Err(format!("a double quote in -o is not closed: {text}"));
    }
    options.push(option);
    Ok(options)
}

/// A path that is not empty.
fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

/// Names separated by `:`, none of them empty.
fn names(value: &str) -> Option<Vec<String>> {
    let names: Vec<String> = value.split(':').map(str::to_owned).collect();
    names.iter().all(|name| !name.is_empty()).then_some(names)
}

/// Permission bits in octal.
fn octal_mode(value: &str) -> Option<u32> {
    u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777)
}

/// A number of bytes, with K, M or G.
fn bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g']) {
        Some(digits) if value.ends_with(['K', 'k']) => (digits, 10),
        Some(digits) if value.ends_with(['M', 'm']) => (digits, 20),
        Some(digits) => (digits, 30),
        None => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// How often to compare everything, in seconds.
pub fn poll_interval(value: &str) -> Option<Duration> {
    let seconds: f64 = value.parse().ok()?;
    POLL_SECONDS.contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// A number of worker threads.
fn threads(value: &str) -> Option<usize> {
    value.parse().ok().filter(|threads| (1..=super::THREADS_MAX).contains(threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_read() {
        let text = "ro,allow_other,default_permissions,uid=1000,gid=100,umask=027,nodev,nosuid,noexec,noatime,sync,\
                    state-dir=/var/lib/x=y,views=by-name:by-cwd,views-as=files,rm=deny,materialize=fsync,io=passthrough,cache-bytes=64M,\
                    poll=1.5,\
                    log-file=/var/log/r.log,threads=4";
        let expected = DashO {
            read_only: Some(true),
            allow_other: Some(true),
            default_permissions: Some(true),
            uid: Some(1000),
            gid: Some(100),
            umask: Some(0o027),
            dev: Some(false),
            suid: Some(false),
            exec: Some(false),
            atime: Some(false),
            synchronous: Some(true),
            state_dir: Some("/var/lib/x=y".into()),
            views: Some(vec!["by-name".into(), "by-cwd".into()]),
            views_as: Some("files".into()),
            rm: Some("deny".into()),
            materialize: Some("fsync".into()),
            io: Some("passthrough".into()),
            cache_bytes: Some(64 << 20),
            poll: Some(Duration::from_millis(1500)),
            log_file: Some("/var/log/r.log".into()),
            threads: Some(4),
        };
        assert_eq!(parse_dash_o(text), Ok(expected));
    }

    /// What fstab, mount(8) and systemd add is accepted without effect.
    #[test]
    fn options_for_others_are_ignored() {
        for text in [
            "",
            ",",
            "defaults",
            "auto,noauto,user,nouser,users,user=alice,nofail,_netdev",
            "x-systemd.automount,x-systemd.idle-timeout=60,X-mount.mkdir=0700,comment=a b,x-gvfs-show",
        ] {
            assert_eq!(parse_dash_o(text), Ok(DashO::default()), "{text}");
        }
    }

    #[test]
    fn the_later_option_counts() {
        let parsed = parse_dash_o("ro,rw,dev,suid,exec,relatime,async,sync,async").expect("all are known");
        assert_eq!(parsed.read_only, Some(false));
        assert_eq!((parsed.dev, parsed.suid, parsed.exec), (Some(true), Some(true), Some(true)));
        assert_eq!((parsed.atime, parsed.synchronous), (Some(true), Some(false)));
    }

    #[test]
    fn values_may_hold_separators() {
        for (text, expected) in [
            (r"state-dir=/a\,b", "/a,b"),
            (r"state-dir=/a\\b", r"/a\b"),
            ("state-dir=\"/a,b\"", "/a,b"),
            ("state-dir=/with space", "/with space"),
            (r"state-dir=/end\", r"/end\"),
            ("state-dir=/\u{4fee}", "/\u{4fee}"),
        ] {
            let parsed = parse_dash_o(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.state_dir.as_deref(), Some(Path::new(expected)), "{text}");
        }
    }

    /// Each bad text with the word its error must name.
    #[test]
    fn bad_options_are_named() {
        for (text, named) in [
            ("ro,bogus", "`bogus`"),
            ("allow_root", "`allow_root`"),
            ("bogus=1", "`bogus`"),
            ("ro=1", "`ro`"),
            ("RO", "`RO`"),
            ("uid=alice", "`uid=alice`"),
            ("uid=-1", "`uid=-1`"),
            ("gid=", "`gid=`"),
            ("umask=9", "`umask=9`"),
            ("umask=7777", "`umask=7777`"),
            ("threads=0", "`threads=0`"),
            ("threads=65", "`threads=65`"),
            ("threads", "`threads=...`"),
            ("cache-bytes=99999999999G", "`cache-bytes=99999999999G`"),
            ("poll=0", "`poll=0`"),
            ("poll=often", "`poll=often`"),
            ("cache-bytes=M", "`cache-bytes=M`"),
            ("views=a::b", "`views=a::b`"),
            ("views=", "`views=`"),
            ("views-as=hardlinks", "`views-as=hardlinks`"),
            ("io=", "`io=`"),
            ("rm=yes", "`rm=yes`"),
            ("rm", "`rm=...`"),
            ("materialize=", "`materialize=`"),
            ("state-dir=", "`state-dir=`"),
            ("log-file=\"x", "not closed"),
        ] {
            let error = parse_dash_o(text).expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("1K", Some(1024)),
            ("2m", Some(2 << 20)),
            ("3G", Some(3 << 30)),
            ("1T", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_the_kernel_and_the_helper_are_told() {
        let mut options = MountOptions::new(Path::new("/h/a,b\\c d"));
        let helper = r"nodev,nosuid,noatime,default_permissions,fsname=/h/a\,b\\c d,subtype=rolloutfs";
        assert_eq!(options.helper_text(), helper);
        assert_eq!(options.kernel_flags(), libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOATIME);
        options.apply(&parse_dash_o("ro,allow_other,noexec,atime,sync,dev,suid").expect("all are known"));
        let helper = r"ro,nodev,nosuid,noexec,sync,default_permissions,allow_other,fsname=/h/a\,b\\c d,subtype=rolloutfs";
        assert_eq!(options.helper_text(), helper);
        let data = options.kernel_data(7, libc::S_IFDIR);
        assert!(data.starts_with("fd=7,rootmode=40000,user_id="), "{data}");
        assert!(data.ends_with(",default_permissions,allow_other"), "{data}");
    }
}
