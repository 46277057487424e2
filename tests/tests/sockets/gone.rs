//! Backends that leave and come.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    thread,
};

use sluice_abi::{
    Backend, BackendState, Frontend, ServiceId, maps,
    protocol::{TCP, UDP},
};

use crate::world::{
    BACKENDS, Family, SERVICES, World, answer, backend_id, connected_datagram, datagram, tcp,
};

#[test]
fn a_connected_udp_socket_does_not_stay_on_a_gone_backend() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[1]);
        let [waiting, quiet, other] = [(); 3].map(|()| family.udp());
        for socket in [&waiting, &quiet] {
            socket.connect(named).expect("connect");
            assert_eq!(connected_datagram(socket).expect("an answer"), family.plain(BACKENDS, 1));
        }
        // A socket that reached the same backend by itself is none of our business.
        other.connect(family.at(BACKENDS, 1, crate::world::BACKEND_PORT)).expect("connect");
        let waits = waiting.try_clone().expect("the socket once more");
        let waits = thread::spawn(move || waits.recv(&mut [0; 16]));
        world.service(service, UDP, &[2]);
        world.remove_backend(family, UDP, 1);
        sockets.changed();
        let error = waits.join().expect("the thread").expect_err("an answer of nobody");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{family:?}");
        // Its connection is gone too: sooner or later, since they are ended one after the other.
        while quiet.peer_addr().is_ok() {
            thread::yield_now();
        }
        // The process connects again, and is led to a backend that serves.
        let _ = quiet.take_error();
        quiet.connect(named).expect("connect");
        assert_eq!(connected_datagram(&quiet).expect("an answer"), family.plain(BACKENDS, 2), "{family:?}");
        assert_eq!(connected_datagram(&other).expect("an answer"), family.plain(BACKENDS, 1), "{family:?}");
    }
}

#[test]
fn a_connected_udp_socket_is_not_forgotten_among_many_others() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[1]);
        let socket = family.udp();
        socket.connect(named).expect("connect");
        // More than any table of sockets holds: connected ones, and such as stay in it when they are closed.
        let storm = maps::LED_SOCKETS.max_entries + 1;
        for number in 0..storm {
            let other = family.udp();
            other.connect(named).expect("connect");
            if number < 2 * maps::SOCKET_PEERS.max_entries {
                family.udp().send_to(b"?", named).expect("a datagram");
            }
        }
        assert_eq!(socket.peer_addr().expect("a peer"), named, "{family:?}");
        assert_eq!(world.maps.led_sockets.count().expect("the map"), 1, "{family:?}: closed ones are gone");
        world.service(service, UDP, &[2]);
        world.remove_backend(family, UDP, 1);
        sockets.changed();
        while socket.peer_addr().is_ok() {
            thread::yield_now();
        }
        // A process that sends first hears this instead (`docs/sockets.md`).
        let error = socket.send(b"?").expect_err("nobody to send to");
        let told = [Some(libc::ECONNABORTED), Some(libc::EDESTADDRREQ)];
        assert!(told.contains(&error.raw_os_error()), "{family:?}: {error}");
        assert_eq!(world.maps.led_sockets.count().expect("the map"), 0, "{family:?}");
    }
}

#[test]
fn a_udp_socket_does_not_stay_on_a_backend_that_serves_other_services_only() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[1]);
        let (connected, plain) = (family.udp(), family.udp());
        connected.connect(named).expect("connect");
        assert_eq!(datagram(&plain, named).expect("an answer").0, family.plain(BACKENDS, 1), "{family:?}");
        world.service(service, UDP, &[2]);
        sockets.changed();
        while connected.peer_addr().is_ok() {
            thread::yield_now();
        }
        assert_eq!(datagram(&plain, named).expect("an answer").0, family.plain(BACKENDS, 2), "{family:?}");
    }
}

#[test]
fn a_connected_udp_socket_keeps_a_backend_that_ends_and_still_serves() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[1]);
        let [kept, led] = [(); 2].map(|()| family.udp());
        kept.connect(named).expect("connect");
        let id = backend_id(family, UDP, 1);
        let ending = world.maps.backends.get(&id).expect("the map").expect("a backend");
        let ending = Backend { state: BackendState::Terminating as u8, ..ending };
        world.maps.backends.put(&id, &ending).expect("a backend");
        world.service(service, UDP, &[2]);
        led.connect(named).expect("connect");
        world.service(service, UDP, &[3]);
        sockets.changed();
        // When another one is ended, this one has been looked at, or is with the next.
        while led.peer_addr().is_ok() {
            thread::yield_now();
        }
        assert_eq!(connected_datagram(&kept).expect("an answer"), family.plain(BACKENDS, 1), "{family:?}");
    }
}

#[test]
fn a_udp_socket_that_was_refused_hears_of_the_first_backend() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[]);
        let socket = family.udp();
        socket.connect(named).expect("connect");
        let waits = socket.try_clone().expect("the socket once more");
        let waits = thread::spawn(move || waits.recv(&mut [0; 16]));
        world.service(service, UDP, &[1]);
        sockets.changed();
        let error = waits.join().expect("the thread").expect_err("an answer of nobody");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{family:?}");
        socket.connect(named).expect("connect");
        assert_eq!(connected_datagram(&socket).expect("an answer"), family.plain(BACKENDS, 1), "{family:?}");
    }
}

#[test]
fn a_service_that_follows_another_under_its_address_has_its_own_backends() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 53);
        world.service(service, UDP, &[1]);
        let socket = family.udp();
        assert_eq!(datagram(&socket, named).expect("an answer").0, family.plain(BACKENDS, 1), "{family:?}");
        // The first backend serves on, for others.
        let other = Frontend { service: ServiceId(2), ..Frontend::default() };
        world.service_with(service, UDP, &[2], other);
        assert_eq!(datagram(&socket, named).expect("an answer").0, family.plain(BACKENDS, 2), "{family:?}");
    }
}

#[test]
fn an_established_tcp_connection_stays_where_it_is() {
    let (world, sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 80);
        let service = SocketAddr::new(family.plain(SERVICES, 10), 80);
        world.service(service, TCP, &[1]);
        let mut stream = TcpStream::connect(named).expect("connect");
        assert_eq!(answer(&mut stream).expect("an answer"), family.plain(BACKENDS, 1));
        world.service(service, TCP, &[2]);
        assert_eq!(tcp(named).expect("an answer").0, family.plain(BACKENDS, 2), "{family:?}");
        assert_eq!(answer(&mut stream).expect("an answer"), family.plain(BACKENDS, 1), "{family:?}");
        world.remove_backend(family, TCP, 1);
        sockets.changed();
        assert_eq!(answer(&mut stream).expect("an answer"), family.plain(BACKENDS, 1), "{family:?}");
        assert_eq!(stream.peer_addr().expect("a peer"), named, "{family:?}");
    }
}
