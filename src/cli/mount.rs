//! How does `rolloutfs mount` put a home's tree somewhere? Settles what was asked, then serves, behind or in front.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::daemon::{self, ReadyPipe};
use super::error::CliError;
use super::logging::Verbosity;
use super::mounts;
use crate::fs::fuse::Adapter;
use crate::fs::held::Landing;
use crate::fs::session::{self, DashO, MountOptions};
use crate::fs::write::{Materialise, Removal};
use crate::fs::{Fs, FsOptions, ViewsAs, invalidate};
use crate::store::error::StoreError;
use crate::store::home::Home;
use crate::store::pending::Recover;
use crate::store::{CACHE_BYTES_MAX_DEFAULT, Store, StoreOptions};
use crate::views::Views;

/// Most threads that answer the kernel, unless told.
const WORKERS_MAX: usize = 8;
/// The command returns when everything is read, or after this time: the mount answers before.
const SETTLE_WAIT_MAX: Duration = Duration::from_millis(1000);
/// How long a daemon that was just unmounted may take to let go of the home.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks whether it did.
const RELEASE_POLL: Duration = Duration::from_millis(20);
/// Fewest: a slow call must never hold up all others.
const WORKERS_MIN: usize = 2;

/// Mount a Codex home as a tree of threads, and return when it is mounted.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "\
Examples:
  rolloutfs mount ~/codex                         ~/.codex at ~/codex
  rolloutfs mount /srv/home /mnt/threads -o ro,allow_other
  rolloutfs mount -f --views by-name,by-cwd ~/codex
In /etc/fstab:
  /home/me/.codex /home/me/codex fuse.rolloutfs ro,noauto,user 0 0")]
pub(super) struct MountArgs {
    /// The home (default: $CODEX_HOME, then ~/.codex) and where to mount it
    #[arg(value_names = ["HOME", "MOUNTPOINT"], num_args = 1..=2, required = true)]
    pub(super) paths: Vec<PathBuf>,
    /// Stay in the foreground; log to the terminal
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Options as fstab gives them: ro, allow_other, uid=N, views=by-id:by-name, rm=deny, ...
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(super) options: Vec<String>,
    /// Refuse every change; also mounts beside another mount of the same home
    #[arg(long)]
    pub(super) read_only: bool,
    /// What rm of a thread does: to the trash, nothing, or for good
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(super) rm: Option<RmArg>,
    /// What gives a new thread its place in the home: its first user message, also an fsync, or its creation
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(super) materialize: Option<MaterializeArg>,
    /// Let other users in (needs user_allow_other in /etc/fuse.conf unless root)
    #[arg(long)]
    pub(super) allow_other: bool,
    /// Show everything as owned by this user id
    #[arg(long, value_name = "ID")]
    pub(super) uid: Option<u32>,
    /// Show everything as owned by this group id
    #[arg(long, value_name = "ID")]
    pub(super) gid: Option<u32>,
    /// Take these bits from every mode, octal: 077 shows files as 0600
    #[arg(long, value_name = "BITS", value_parser = parse_octal)]
    pub(super) umask: Option<u32>,
    /// The views to show, separated by commas (default: all)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) views: Option<Vec<String>>,
    /// Show the entries of views as symbolic links, or as the files themselves for tools that drop links
    #[arg(long, value_enum)]
    pub(super) views_as: Option<ViewsAsArg>,
    /// Where the index lies (default: .rolloutfs in the home, else below ~/.local/state)
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// Bytes on disk for decoded copies of compressed threads (default: 2 GiB)
    #[arg(long, value_name = "BYTES")]
    pub(super) cache_bytes: Option<u64>,
    /// Find changes by comparing everything so often, not by inotify (default: where the home is on a network filesystem, 10)
    #[arg(long, value_name = "SECONDS", value_parser = parse_poll)]
    pub(super) poll: Option<Duration>,
    /// Threads that answer the kernel (default: one a processor, 2 to 8)
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Append the log to this file
    #[arg(long, value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
    /// The pipe on which the daemon says that it is mounted
    #[arg(long, hide = true, value_name = "FD")]
    pub(super) ready_fd: Option<RawFd>,
}

/// What `rm` does, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RmArg {
    /// Move it to the trash
    Trash,
    /// Refuse it
    Deny,
    /// Delete it
    Delete,
}

/// What materialises a thread, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MaterializeArg {
    /// Its first user message
    UserMessage,
    /// An fsync, too
    Fsync,
    /// Its creation
    Create,
}

/// How the entries of views are shown, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ViewsAsArg {
    /// Relative symbolic links
    Symlinks,
    /// Regular files that share the thread's inode
    Files,
}

pub(super) fn parse_poll(text: &str) -> Result<Duration, String> {
    session::poll_interval(text).ok_or_else(|| "give seconds, 0.1 to 86400".into())
}

fn parse_octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 => Ok(bits),
        _ => Err("give octal permission bits, such as 077".into()),
    }
}

/// The value of a flag as `-o` has it, where the same words were accepted before.
fn typed<T: ValueEnum>(text: Option<&str>) -> Option<T> {
    T::from_str(text?, false).ok()
}

/// What was asked, settled: flags before `-o`, defaults last.
struct Plan {
    home: Home,
    mountpoint: PathBuf,
    mount: MountOptions,
    fs: FsOptions,
    store: StoreOptions,
    read_only: bool,
    workers: usize,
    log_file: Option<PathBuf>,
}

fn invalid(message: impl ToString) -> StoreError {
    StoreError::Invalid(message.to_string())
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(StoreError::io("find", path))
}

impl Plan {
    fn new(args: &MountArgs) -> Result<Plan, StoreError> {
        let dash_o: DashO = session::parse_dash_o(&args.options.join(",")).map_err(invalid)?;
        let (home, mountpoint) = match args.paths.as_slice() {
            [mountpoint] => (Home::resolve(None)?, mountpoint),
            [home, mountpoint] => (Home::open(home)?, mountpoint),
            _ => return Err(invalid("give [HOME] MOUNTPOINT")),
        };
        let mut mount = MountOptions::new(home.root());
        mount.apply(&dash_o);
        let read_only = args.read_only || mount.read_only;
        // The kernel refuses changes, then.
        mount.read_only = read_only;
        mount.allow_other |= args.allow_other;
        let views_as = match (args.views_as, dash_o.views_as.as_deref()) {
            (Some(ViewsAsArg::Files), _) | (None, Some("files")) => ViewsAs::Files,
            _ => ViewsAs::Symlinks,
        };
        let processors = std::thread::available_parallelism().map_or(WORKERS_MIN, usize::from);
        let workers = args.threads.or(dash_o.threads).unwrap_or(processors.clamp(WORKERS_MIN, WORKERS_MAX));
        let state_dir = args.state_dir.clone().or(dash_o.state_dir);
        let materialise = match args.materialize.or(typed(dash_o.materialize.as_deref())) {
            Some(MaterializeArg::Fsync) => Materialise::Fsync,
            Some(MaterializeArg::Create) => Materialise::Create,
            Some(MaterializeArg::UserMessage) | None => Materialise::UserMessage,
        };
        let recover = match (mount.read_only, materialise) {
            (true, _) => Recover::Nothing,
            (false, Materialise::Create) => Recover::All,
            (false, _) => Recover::Asked,
        };
        Ok(Plan {
            mountpoint: absolute(mountpoint)?,
            mount,
            fs: FsOptions {
                views: args.views.clone().or(dash_o.views),
                views_as,
                uid: args.uid.or(dash_o.uid),
                gid: args.gid.or(dash_o.gid),
                umask: args.umask.or(dash_o.umask),
                read_only,
                removal: match args.rm.or(typed(dash_o.rm.as_deref())) {
                    Some(RmArg::Deny) => Removal::Deny,
                    Some(RmArg::Delete) => Removal::Delete,
                    Some(RmArg::Trash) | None => Removal::Trash,
                },
                materialise,
            },
            store: StoreOptions {
                state_dir: state_dir.as_deref().map(absolute).transpose()?,
                cache_bytes_max: args.cache_bytes.or(dash_o.cache_bytes).unwrap_or(CACHE_BYTES_MAX_DEFAULT),
                poll: args.poll.or(dash_o.poll),
                purpose: format!("mounted at {}", mountpoint.display()),
                recover,
                ..StoreOptions::default()
            },
            read_only,
            workers,
            log_file: args.log_file.clone().or(dash_o.log_file).as_deref().map(absolute).transpose()?,
            home,
        })
    }
}

/// Runs the command.
pub(super) fn run(args: &MountArgs, verbosity: Verbosity) -> Result<(), CliError> {
    let plan = Plan::new(args)?;
    let Some(fd) = args.ready_fd else {
        return if args.foreground { Ok(serve(&plan, || {})?) } else { mount_behind(args, &plan, verbosity) };
    };
    let ready =
        Mutex::new(Some(ReadyPipe::from_fd(fd).map_err(StoreError::io("write to", &plan.mountpoint))?));
    let take = || ready.lock().unwrap_or_else(|poison| poison.into_inner()).take();
    let outcome = serve(&plan, || {
        if let Some(ready) = take() {
            ready.ready();
        }
    });
    if let (Some(ready), Err(error)) = (take(), &outcome) {
        ready.failed(&super::error::chain(error));
    }
    outcome
}

/// Starts the daemon and waits until it has mounted.
fn mount_behind(args: &MountArgs, plan: &Plan, verbosity: Verbosity) -> Result<(), CliError> {
    let mut words: Vec<OsString> = vec!["mount".into()];
    words.extend(verbosity.words().map(Into::into));
    let mut option = |flag: &str, value: Option<OsString>| {
        if let Some(value) = value {
            words.push(flag.into());
            words.push(value);
        }
    };
    option("--state-dir", plan.store.state_dir.clone().map(Into::into));
    option("--log-file", plan.log_file.clone().map(Into::into));
    option("--uid", args.uid.map(|id| id.to_string().into()));
    option("--gid", args.gid.map(|id| id.to_string().into()));
    option("--umask", args.umask.map(|bits| format!("{bits:o}").into()));
    option("--views", args.views.as_ref().map(|views| views.join(",").into()));
    option("--views-as", Some(if plan.fs.views_as == ViewsAs::Files { "files" } else { "symlinks" }.into()));
    option("--cache-bytes", Some(plan.store.cache_bytes_max.to_string().into()));
    let value = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().into());
    option("--rm", value(args.rm.and_then(|rm| rm.to_possible_value())));
    option("--materialize", value(args.materialize.and_then(|when| when.to_possible_value())));
    option("--poll", plan.store.poll.map(|every| every.as_secs_f64().to_string().into()));
    option("--threads", Some(plan.workers.to_string().into()));
    for options in &args.options {
        option("-o", Some(options.into()));
    }
    let flags = [("--read-only", plan.read_only), ("--allow-other", plan.mount.allow_other)];
    for (flag, wanted) in flags {
        if wanted {
            words.push(flag.into());
        }
    }
    words.push("--".into());
    words.push(plan.home.root().into());
    words.push(plan.mountpoint.clone().into());
    daemon::spawn_daemon(&words, plan.log_file.as_deref())?;
    println!("{} is mounted at {}", plan.home.root().display(), plan.mountpoint.display());
    Ok(())
}

/// Mounts and serves until unmounted.
fn serve(plan: &Plan, mounted: impl FnOnce() + Send) -> Result<(), CliError> {
    if session::clear_dead(&plan.mountpoint)? {
        log::warn!("{}: a mount whose daemon was gone is cleared", plan.mountpoint.display());
    }
    let mountpoint = session::check_mountpoint(plan.home.root(), &plan.mountpoint)?;
    if let Err(error) = session::raise_nofile_limit() {
        log::debug!("open files stay limited: {error}");
    }
    let at_end = mountpoint.clone();
    session::on_termination(move || {
        if let Err(error) = session::unmount(&at_end) {
            log::error!("{error}");
        }
    })
    .map_err(StoreError::io("handle signals for", &mountpoint))?;
    let store = open_store(plan)?;
    let mut options = plan.fs.clone();
    if !options.read_only && !store.state_lasts() {
        log::warn!(
            "{} goes when the machine restarts: nothing can be written through this mount",
            store.state_dir().display()
        );
        options.read_only = true;
    }
    let fs = Arc::new(Fs::new(store, options).map_err(invalid)?);
    fs.set_mountpoint(&mountpoint);
    let device = session::mount(&mountpoint, &plan.mount)?;
    let guard = session::Guard::start(&mountpoint);
    let served = serve_mounted(plan, &fs, device, &mountpoint, mounted);
    drop(guard);
    if served.is_err() {
        // Mounted, and nobody answers: not left behind.
        let _ = session::unmount(&mountpoint);
    }
    fs.store().close();
    Ok(served?)
}

fn serve_mounted(
    plan: &Plan,
    fs: &Arc<Fs>,
    device: std::os::fd::OwnedFd,
    mountpoint: &Path,
    mounted: impl FnOnce() + Send,
) -> Result<(), StoreError> {
    let failed = StoreError::io("serve", mountpoint);
    let session =
        match session::run_session(Adapter::new(fs.clone()), device, plan.workers, plan.mount.allow_other) {
            Ok(session) => session,
            Err(error) => return Err(failed(error)),
        };
    let invalidate = match invalidate::start(fs.clone(), session.notifier()) {
        Ok(thread) => thread,
        Err(error) => return Err(failed(error)),
    };
    let landing = match Landing::start(fs.clone()) {
        Ok(thread) => thread,
        Err(error) => return Err(failed(error)),
    };
    session::set_read_ahead(mountpoint);
    log::info!("{} is mounted at {}", plan.home.root().display(), mountpoint.display());
    let served = std::thread::scope(|scope| {
        scope.spawn(|| {
            fs.store().wait_settled(SETTLE_WAIT_MAX);
            mounted();
        });
        session::serve(session, mountpoint)
    });
    drop(landing);
    fs.store().close();
    let _ = invalidate.join();
    log::info!("{} is unmounted", mountpoint.display());
    served.map_err(failed)
}

/// Opens the home's store. Who holds it and has no mount is a daemon that was unmounted just now, or another command at
/// work: it is waited for a little.
fn open_store(plan: &Plan) -> Result<Store, StoreError> {
    let open = |options: &StoreOptions| Store::open(plan.home.clone(), options, Arc::new(Views::new()));
    let end = Instant::now() + RELEASE_WAIT_MAX;
    loop {
        match open(&plan.store) {
            Err(StoreError::Busy { .. })
                if Instant::now() < end && mounts::of_home(plan.home.root()).is_none() =>
            {
                std::thread::sleep(RELEASE_POLL);
            }
            Err(StoreError::Busy { holder, .. }) if plan.read_only => {
                log::info!("{} is held by {holder}: mounted beside it", plan.home.root().display());
                return open(&StoreOptions { beside: true, ..plan.store.clone() });
            }
            opened => return opened,
        }
    }
}
