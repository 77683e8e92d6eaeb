//! The address of a machine: at which others reach it, and at which it reaches itself.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::RunOptions;

/// Host and port at which other machines reach this one.
pub(super) fn advertised(options: &RunOptions, local: SocketAddr) -> String {
    match &options.advertise {
        Some(address) => address.clone(),
        None => reachable(local, address_towards(options.database_host.as_ref())).to_string(),
    }
}

/// The listening address, with the address towards the database in place of "every address".
fn reachable(local: SocketAddr, towards_database: Option<IpAddr>) -> SocketAddr {
    match towards_database {
        Some(address) if local.ip().is_unspecified() => SocketAddr::new(address, local.port()),
        _ => local,
    }
}

/// The address that this machine uses towards the database, which all machines reach. Sends nothing:
/// connecting a datagram socket only chooses the route.
fn address_towards(database: Option<&(String, u16)>) -> Option<IpAddr> {
    let (host, port) = database?;
    ["0.0.0.0:0", "[::]:0"].into_iter().find_map(|any| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((host.as_str(), *port)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
    })
}

pub(super) fn loopback(local: SocketAddr) -> IpAddr {
    match local {
        SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        SocketAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_machine_that_listens_everywhere_gives_the_address_towards_the_database() {
        let towards = Some(IpAddr::from([10, 0, 0, 7]));
        assert_eq!(reachable(address("0.0.0.0:12300"), towards), address("10.0.0.7:12300"));
        assert_eq!(reachable(address("10.1.1.1:12300"), towards), address("10.1.1.1:12300"));
        assert_eq!(reachable(address("0.0.0.0:12300"), None), address("0.0.0.0:12300"));
    }

    #[test]
    fn the_address_towards_a_local_database_is_the_loopback() {
        let towards = address_towards(Some(&("127.0.0.1".to_owned(), 5432)));
        assert_eq!(towards, Some(IpAddr::from([127, 0, 0, 1])));
    }
}
