//! A page that a command opens: its port, its address for people, the browser.

use std::io::{ErrorKind, IsTerminal as _};

use anyhow::Context as _;
use rlhf_base::tell;
use rlhf_web::server::Server;

use crate::exit::usage;
use crate::flags::ListeningArgs;

/// Takes the port.
pub(crate) fn listen(args: &ListeningArgs) -> anyhow::Result<Server> {
    Server::bind(&args.config()).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => usage!(
            "port {} of {} is in use: name another with --port, or take a free one with --port 0",
            args.port,
            args.host
        ),
        ErrorKind::PermissionDenied => usage!(
            "port {} needs more rights than this process has: name one above 1023 with --port",
            args.port
        ),
        ErrorKind::AddrNotAvailable => usage!(
            "{} is no address of this machine; --host 0.0.0.0 listens on all that it has",
            args.host
        ),
        _ => anyhow::Error::new(error).context("cannot listen"),
    })
}

/// Tells where the page is, and opens it where a person sits in front of this machine. `what` is what is there.
pub(crate) fn announce(server: &Server, args: &ListeningArgs, what: &str) {
    let url = server.url();
    tell(format!("{what}: {url}\nCtrl-C ends it"));
    if args.host.is_unspecified() {
        tell("from elsewhere, put this machine's name or address in the place of the one above");
    }
    if !args.no_open
        && std::io::stderr().is_terminal()
        && has_display()
        && let Err(error) = open::that_detached(&url).context("no browser could be opened")
    {
        tracing::warn!("{error:#}");
    }
}

/// Whether a browser that is started here would be seen here.
fn has_display() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(any(target_os = "macos", windows)) {
        return !set("SSH_CONNECTION");
    }
    set("DISPLAY") || set("WAYLAND_DISPLAY") || set("WSL_DISTRO_NAME")
}
