//! A network between a client and a server that can be cut, or hang.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Passes TCP connections on to a server. Dropping it cuts them.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

impl Proxy {
    /// A proxy before the server that listens at `port` of 127.0.0.1.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn before(port: u16) -> Proxy {
        Proxy::at("127.0.0.1", port)
    }

    /// The same at another address of this machine.
    ///
    /// # Panics
    /// When no port is free there.
    #[must_use]
    pub fn at(host: &str, port: u16) -> Proxy {
        let listener = TcpListener::bind((host, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let network = Arc::new(Network::default());
        let shared = network.clone();
        thread::spawn(move || accept(&listener, port, &shared));
        Proxy { address, network }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Nothing passes any more in either direction, and nobody is told. New connections are
    /// accepted and hang too.
    pub fn hang(&self) {
        self.network.set(|state| state.hangs = true);
    }

    /// Everything passes again, on the connections that survived.
    pub fn mend(&self) {
        self.network.set(|state| state.hangs = false);
    }

    /// Every connection there is breaks off; new ones are passed on.
    pub fn cut(&self) {
        self.network.set(|state| {
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.set(|state| state.over = true);
        self.cut();
        // Its thread waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hangs: bool,
    over: bool,
    connections: Vec<TcpStream>,
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits while the network hangs; false when it is over.
    fn passes(&self) -> bool {
        let waits = |state: &mut State| state.hangs && !state.over;
        let state = self.changed.wait_while(self.lock(), waits);
        !state.unwrap_or_else(PoisonError::into_inner).over
    }
}

fn accept(listener: &TcpListener, port: u16, network: &Arc<Network>) {
    for client in listener.incoming() {
        if network.lock().over {
            return;
        }
        let Ok(client) = client else { continue };
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
            continue;
        };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(from), Ok(to), Ok(known)) =
                (from.try_clone(), to.try_clone(), from.try_clone())
            else {
                continue;
            };
            network.lock().connections.push(known);
            let network = network.clone();
            thread::spawn(move || pass(from, to, &network));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, network: &Network) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !network.passes() || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // A network that hangs does not tell of an end either.
    network.passes();
    let _ = to.shutdown(Shutdown::Both);
}
