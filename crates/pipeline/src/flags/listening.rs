//! The flags of commands that open a page.

use std::net::IpAddr;

use clap::Args;
use rlhf_web::server::{ServerConfig, Token};

// Where the server listens. A command with a port of its own sets the default of `port`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ListeningArgs {
    /// The address to listen on; 0.0.0.0 is every one of this machine. Where others can reach it, a token is needed, which the printed
    /// URL has.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    pub(crate) host: IpAddr,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// The token that clients must show, at least 16 letters, digits or -_.~ [default: none on this machine, else a fresh one].
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<Token>,
    /// Print the page's address and open no browser.
    #[arg(long)]
    pub(crate) no_open: bool,
}

impl ListeningArgs {
    /// A port of this machine, which no other can reach; 0: a free one.
    pub(crate) fn here(port: u16) -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port,
            token: None,
            no_open: false,
        }
    }

    /// The same for the server.
    pub(crate) fn config(&self) -> ServerConfig {
        ServerConfig {
            host: self.host,
            port: self.port,
            token: self.token.clone(),
        }
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        other => other.parse().map_err(|_| {
            "expected an address of this machine such as 127.0.0.1, or 0.0.0.0 for all of them"
                .to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_number_or_localhost() {
        assert_eq!(address("localhost"), address("127.0.0.1"));
        assert!(address("::1").unwrap().is_loopback());
        assert!(address("example.com").unwrap_err().contains("0.0.0.0"));
    }
}
