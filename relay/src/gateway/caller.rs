//! Where a connection comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

/// The header in which proxies say whom they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// So much of it is kept, bytes.
const LONGEST: usize = 256;

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the socket: a proxy's, where there is one.
    pub peer: SocketAddr,
    /// What `X-Forwarded-For` says; empty: nothing. Anybody may write it; it is as good as the proxy in front.
    pub forwarded_for: Box<str>,
}

impl Caller {
    /// From the socket and the request's headers.
    pub fn new(peer: SocketAddr, headers: &HeaderMap) -> Self {
        let said = headers.get_all(FORWARDED_FOR).into_iter();
        let mut forwarded_for = said
            .filter_map(|value| value.to_str().ok())
            .collect::<Vec<_>>()
            .join(", ");
        forwarded_for.truncate(forwarded_for.floor_char_boundary(LONGEST));
        Self {
            peer,
            forwarded_for: forwarded_for.into(),
        }
    }
}

/// Whose connections are counted together: an IPv4 address, or a /64, which is what one subscriber is given of IPv6.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn an_address_of_ipv6_is_its_64_bits() {
        let of = |text: &str| site(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }

    #[test]
    fn what_proxies_say_is_kept_beside_the_address_and_cut() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4000));
        let mut headers = HeaderMap::new();
        assert_eq!(&*Caller::new(peer, &headers).forwarded_for, "");
        headers.append(FORWARDED_FOR, HeaderValue::from_static("192.0.2.7, 10.0.0.1"));
        headers.append(FORWARDED_FOR, HeaderValue::from_static("10.0.0.2"));
        assert_eq!(
            &*Caller::new(peer, &headers).forwarded_for,
            "192.0.2.7, 10.0.0.1, 10.0.0.2"
        );
        headers.append(FORWARDED_FOR, HeaderValue::from_str(&"x".repeat(1000)).unwrap());
        assert_eq!(Caller::new(peer, &headers).forwarded_for.len(), LONGEST);
    }
}
