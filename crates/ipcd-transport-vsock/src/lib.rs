//! VM sockets (vsock(7)): an ordered, reliable byte stream between a virtual machine and its host,
//! without a network. A peer is known by its context id (CID) and port only.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, Error, IdentityKind, Listener,
    PeerAddress, PeerIdentity, Result, SocketListener, StreamChannel, Transport, connect_socket,
};
use nix::libc::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VMADDR_PORT_ANY};
use nix::sys::socket::{AddressFamily, SockaddrLike, VsockAddr, getpeername};

/// The VM socket transport.
pub struct Vsock;

/// The port of the default endpoint.
pub const DEFAULT_PORT: u32 = 7117;

impl Transport for Vsock {
    fn scheme(&self) -> &'static str {
        "vsock"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "byte stream between a virtual machine and its host; peers prove a token",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: true,
            encrypted: false,
            largest_record: None,
            identity: IdentityKind::OtherAddress,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        match VmAddress::of(endpoint)? {
            VmAddress { cid: VMADDR_CID_ANY, .. } if !purpose.listens() => Err(endpoint.error(
                "any is for listeners: a connection needs a CID, 1 for this machine, 2 for the host",
            )),
            _ => Ok(()),
        }
    }

    /// A daemon does not listen here unless it is told to: most machines have no use for it.
    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::new(self.scheme(), format!("{VMADDR_CID_LOCAL}:{DEFAULT_PORT}")))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        listen_with::<VmSockets>(at)
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        connect_with::<VmSockets>(to, deadline)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }
}

/// A context id and port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct VmAddress {
    cid: u32,
    port: u32,
}

impl VmAddress {
    fn of(endpoint: &Endpoint) -> Result<Self> {
        let parse = || {
            let (cid, port) = endpoint.address().rsplit_once(':')?;
            let cid = match cid {
                "any" | "-1" => VMADDR_CID_ANY,
                number => number.parse().ok()?,
            };
            Some(Self { cid, port: port.parse().ok()? })
        };
        let needed = "a CID and port are needed, as in vsock://2:7117 or vsock://any:7117";
        parse().filter(|_| !endpoint.is_opaque()).ok_or_else(|| endpoint.error(needed))
    }

    /// Port 0 stands for a port of the kernel's choice, as it does for TCP.
    fn to_bind(self) -> Self {
        Self { port: if self.port == 0 { VMADDR_PORT_ANY } else { self.port }, ..self }
    }
}

/// The sockets that carry the stream. Tests put others in the place of the kernel's VM sockets, which
/// reach this machine itself only with the module vsock_loopback.
trait SocketFamily: 'static {
    const FAMILY: AddressFamily;
    type Address: SockaddrLike;

    fn address(vm: VmAddress) -> Self::Address;
    fn vm_address(address: &Self::Address) -> VmAddress;
}

struct VmSockets;

impl SocketFamily for VmSockets {
    const FAMILY: AddressFamily = AddressFamily::Vsock;
    type Address = VsockAddr;

    fn address(vm: VmAddress) -> VsockAddr {
        VsockAddr::new(vm.cid, vm.port)
    }

    fn vm_address(address: &VsockAddr) -> VmAddress {
        VmAddress { cid: address.cid(), port: address.port() }
    }
}

struct VsockListener<F> {
    socket: SocketListener,
    family: std::marker::PhantomData<F>,
}

fn listen_with<F: SocketFamily>(at: &Endpoint) -> Result<Box<dyn Listener>> {
    let address = F::address(VmAddress::of(at)?.to_bind());
    let mut socket = SocketListener::bind(at, F::FAMILY, &address)?;
    // The CID stays as it was written: getsockname(2) returns VMADDR_CID_ANY as a number.
    let port = F::vm_address(&socket.address()?).port;
    let host = at.address().rsplit_once(':').map_or("any", |(host, _)| host);
    socket.set_local(at.with_address(format!("{host}:{port}")));
    Ok(Box::new(VsockListener::<F> { socket, family: std::marker::PhantomData }))
}

/// The kernel gives up after two seconds (`SO_VM_SOCKETS_CONNECT_TIMEOUT`), also before a later
/// deadline.
fn connect_with<F: SocketFamily>(to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
    let vm = VmAddress::of(to)?;
    let socket = connect_socket(to, F::FAMILY, &F::address(vm), deadline)?;
    Ok(Box::new(StreamChannel::socket(socket, identity(vm))?))
}

fn identity(vm: VmAddress) -> PeerIdentity {
    PeerIdentity::from_addr(PeerAddress::numbered(vm.cid, vm.port))
}

impl<F: SocketFamily> Listener for VsockListener<F> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        self.socket.local()
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some(socket) = self.socket.accept()? else { return Ok(None) };
        // accept(2) reports the same; getpeername(2) needs no room for an address of unknown size.
        let peer = getpeername::<F::Address>(socket.as_raw_fd())
            .map_err(|error| Error::system(format!("accept on {}", self.local()), error))?;
        let identity = identity(F::vm_address(&peer));
        Ok(Some(ChannelParts { descriptors: vec![socket], identity, state: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_context_ids_and_ports() {
        let of = |text: &str| VmAddress::of(&text.parse().unwrap());
        assert_eq!(of("vsock://2:7117").unwrap(), VmAddress { cid: 2, port: 7117 });
        for any in ["any", "-1", "4294967295"] {
            assert_eq!(of(&format!("vsock://{any}:5")).unwrap().cid, VMADDR_CID_ANY);
        }
        for bad in ["vsock://2", "vsock://host:1", "vsock://2:x", "vsock://-2:1", "vsock:2:1"] {
            assert!(of(bad).unwrap_err().to_string().contains("vsock://2:7117"), "{bad}");
        }
        let any = "vsock://any:5".parse().unwrap();
        assert!(Vsock.check(&any, EndpointPurpose::Listen).is_ok());
        assert!(Vsock.check(&any, EndpointPurpose::Connect).is_err());
    }

    /// The same code over abstract Unix-domain sockets, which every kernel has.
    mod twin {
        use std::sync::atomic::{AtomicU32, Ordering};

        use nix::sys::socket::UnixAddr;

        use super::super::*;

        struct AbstractSockets;

        static NEXT_PORT: AtomicU32 = AtomicU32::new(1);

        impl SocketFamily for AbstractSockets {
            const FAMILY: AddressFamily = AddressFamily::Unix;
            type Address = UnixAddr;

            fn address(vm: VmAddress) -> UnixAddr {
                let port = match vm.port {
                    // No other process has names with our process id.
                    VMADDR_PORT_ANY => {
                        std::process::id() * 1_000 + NEXT_PORT.fetch_add(1, Ordering::Relaxed)
                    }
                    port => port,
                };
                let name = format!("ipcd-vsock-twin:{}:{port}", vm.cid);
                UnixAddr::new_abstract(name.as_bytes()).expect("the name is short")
            }

            fn vm_address(address: &UnixAddr) -> VmAddress {
                let name = address.as_abstract().map(|name| String::from_utf8_lossy(name));
                let port = name.and_then(|name| name.rsplit(':').next()?.parse().ok());
                VmAddress { cid: VMADDR_CID_LOCAL, port: port.unwrap_or(0) }
            }
        }

        struct Twin;

        impl Transport for Twin {
            fn scheme(&self) -> &'static str {
                Vsock.scheme()
            }

            fn capabilities(&self) -> Capabilities {
                Vsock.capabilities()
            }

            fn options(&self) -> &'static [&'static str] {
                Vsock.options()
            }

            fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
                Vsock.check(endpoint, purpose)
            }

            fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
                Vsock.default_endpoint(runtime_dir)
            }

            fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
                listen_with::<AbstractSockets>(at)
            }

            fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
                connect_with::<AbstractSockets>(to, deadline)
            }

            fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
                Vsock.adopt(parts)
            }
        }

        ipcd_conformance::conformance!(Twin, |_| Endpoint::new("vsock", "1:0"));
    }
}
