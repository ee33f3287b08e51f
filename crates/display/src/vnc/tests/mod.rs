//! The server against a client of its own, through a socket.

mod client;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use client::{Client, Told, answer_challenge, authenticate, connect, result, take};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::{Identity, Listener, Options, Password, Server};
use crate::keys::Key;
use crate::{Frame, Input, Leds, Picture, Pointer};

/// A screen that shows what the test says, and counts how often it is drawn.
#[derive(Default)]
struct Canvas {
    shown: Mutex<(u32, u32, Vec<u32>)>,
    drawn: AtomicUsize,
}

impl Canvas {
    fn show(&self, width: u32, height: u32, pixel: impl Fn(u32, u32) -> u32) {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| pixel(x, y)).collect();
        *self.shown.lock().unwrap() = (width, height, pixels);
    }

    fn pixels(&self) -> Vec<u32> {
        self.shown.lock().unwrap().2.clone()
    }
}

impl Picture for Canvas {
    fn draw(&self, frame: &mut Frame) {
        self.drawn.fetch_add(1, Ordering::SeqCst);
        let shown = self.shown.lock().unwrap();
        frame.resize(shown.0, shown.1);
        for (row, y) in shown.2.chunks(shown.0.max(1) as usize).zip(0..) {
            frame.set_row(y, row);
        }
    }

    fn text(&self) -> Option<String> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Key(Key, bool),
    Pointer(Pointer),
}

/// A keyboard and pointer that remember what was done.
#[derive(Default)]
struct Desk {
    done: Mutex<Vec<Done>>,
    changed: Condvar,
    caps: AtomicBool,
    absolute: AtomicBool,
}

impl Desk {
    fn note(&self, done: Done) {
        self.done.lock().unwrap().push(done);
        self.changed.notify_all();
    }

    /// Waits for so many things to be done, and takes them.
    fn wait(&self, count: usize) -> Vec<Done> {
        let (mut done, late) = self
            .changed
            .wait_timeout_while(self.done.lock().unwrap(), Duration::from_secs(60), |done| done.len() < count)
            .unwrap();
        assert!(!late.timed_out(), "{done:?}");
        std::mem::take(&mut done)
    }

    fn keys(&self, count: usize) -> Vec<String> {
        let text = |done| match done {
            Done::Key(key, true) => format!("{key}"),
            Done::Key(key, false) => format!("/{key}"),
            Done::Pointer(_) => "pointer".into(),
        };
        self.wait(count).into_iter().map(text).collect()
    }
}

impl Input for Desk {
    fn key(&self, key: Key, down: bool) -> bool {
        self.note(Done::Key(key, down));
        true
    }

    fn release_all(&self) {}

    fn pointer(&self, event: Pointer) {
        self.note(Done::Pointer(event));
    }

    fn is_absolute(&self) -> bool {
        self.absolute.load(Ordering::SeqCst)
    }

    fn leds(&self) -> Leds {
        Leds { caps: self.caps.load(Ordering::SeqCst), ..Leds::default() }
    }

    fn wait_for_room(&self, _: Duration) -> bool {
        true
    }
}

struct Fixture {
    canvas: Arc<Canvas>,
    desk: Arc<Desk>,
    server: Server,
    path: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn start_with(password: Option<&str>, identity: Option<Identity>) -> Fixture {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("husk-vnc-{}-{number}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let (canvas, desk) = (Arc::<Canvas>::default(), Arc::<Desk>::default());
    canvas.show(200, 100, |x, y| x << 16 | y << 8 | (x ^ y) & 0xff);
    let password = password.map(|text| Password::first_line(text.as_bytes()).unwrap());
    let options = Options { listener, name: "a screen".into(), password, identity };
    let server = Server::start(options, Arc::clone(&canvas) as _, Arc::clone(&desk) as _).unwrap();
    Fixture { canvas, desk, server, path }
}

fn start() -> Fixture {
    start_with(None, None)
}

#[test]
fn every_encoding_and_form_shows_the_picture_and_then_what_changes() {
    let all = start();
    let formats = [
        [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0],
        [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 24, 16, 8, 0, 0, 0],
        [16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0],
        [8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut colour = 0;
    for encoding in [0, 5, 16] {
        for format in formats {
            let mut client = Client::enter(&all.path);
            assert_eq!((client.size, client.name.as_str()), ((200, 100), "a screen"));
            client.format(format);
            client.encodings(&[77, encoding]);
            client.request(false);
            let told = client.update();
            assert_eq!(told, [Told::Pixels { encoding, place: [0, 0, 200, 100] }]);
            assert!(client.screen == client.values(&all.canvas.pixels()));
            // A change of one pixel comes as one tile, and a second one that follows as well.
            for at in [(70, 40), (199, 99)] {
                client.request(true);
                colour += 0x40;
                let before = all.canvas.pixels();
                let new = colour & 0xff | 0xc0_8000;
                all.canvas.show(200, 100, |x, y| if (x, y) == at { new } else { before[(y * 200 + x) as usize] });
                let told = client.update();
                let place = if at.0 == 70 { [64, 32, 32, 16] } else { [192, 96, 8, 4] };
                assert_eq!(told, [Told::Pixels { encoding, place }]);
                assert!(client.screen == client.values(&all.canvas.pixels()));
            }
        }
    }
}

#[test]
fn older_versions_come_in_too() {
    for version in ["003", "005", "007", "008", "889"] {
        for password in [None, Some("sesame")] {
            let all = start_with(password, None);
            let mut wire = connect(&all.path);
            authenticate(&mut wire, version, password).unwrap();
            let mut client = Client::init(Box::new(wire), true);
            client.request(false);
            client.update();
            assert!(client.screen == all.canvas.pixels());
        }
    }
}

#[test]
fn a_wrong_password_stays_out() {
    let all = start_with(Some("sesame"), None);
    let mut wire = connect(&all.path);
    assert_eq!(authenticate(&mut wire, "008", Some("barley")), Err("the password is wrong".into()));
    let mut rest = Vec::new();
    let _ = wire.read_to_end(&mut rest);
    assert!(rest.is_empty());
    assert_eq!(all.server.clients(), 0);
    // Who asks for no security is not let in without.
    let mut wire = connect(&all.path);
    assert_eq!(&take::<12>(&mut wire), b"RFB 003.008\n");
    wire.write_all(b"RFB 003.008\n").unwrap();
    assert_eq!(take::<2>(&mut wire), [1, 2]);
    wire.write_all(&[1]).unwrap();
    assert_eq!(result(&mut wire, "008"), Err("there is no such security here".into()));
}

#[test]
fn tls_goes_around_all() {
    let made = rcgen::generate_simple_self_signed(vec!["screen.test".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for password in [None, Some("sesame")] {
        let identity = Identity::new(certificate.as_bytes(), key.as_bytes()).unwrap();
        let all = start_with(password, Some(identity));
        let mut wire = connect(&all.path);
        assert_eq!(&take::<12>(&mut wire), b"RFB 003.008\n");
        wire.write_all(b"RFB 003.008\n").unwrap();
        assert_eq!(take::<2>(&mut wire), [1, 19]);
        wire.write_all(&[19]).unwrap();
        assert_eq!(take::<2>(&mut wire), [0, 2]);
        wire.write_all(&[0, 2]).unwrap();
        assert_eq!(take::<2>(&mut wire), [0, 1]);
        let kind: [u8; 4] = take(&mut wire);
        assert_eq!(u32::from_be_bytes(kind), if password.is_some() { 261 } else { 260 });
        wire.write_all(&kind).unwrap();
        assert_eq!(take::<1>(&mut wire), [1]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("screen.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut wire = rustls::StreamOwned::new(connection, wire);
        if let Some(password) = password {
            answer_challenge(&mut wire, password);
        }
        result(&mut wire, "008").unwrap();
        let mut client = Client::init(Box::new(wire), true);
        client.encodings(&[16]);
        client.request(false);
        client.update();
        assert!(client.screen == all.canvas.pixels());
        client.request(true);
        all.canvas.show(200, 100, |x, _| x);
        client.update();
        assert!(client.screen == all.canvas.pixels());
    }
}

#[test]
fn certificates_that_are_none_are_refused() {
    let made = rcgen::generate_simple_self_signed(vec!["screen.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["screen.test".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let refused = |certificate: &str, key: &str| Identity::new(certificate.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(refused("", &key).to_string(), "there is no certificate in it");
    assert_eq!(refused(&certificate, "").to_string(), "not a private key in PEM form");
    assert!(refused(&certificate, &other.signing_key.serialize_pem()).to_string().contains("cannot be used"));
}

#[test]
fn a_new_size_is_told() {
    let all = start();
    let mut old = Client::enter(&all.path);
    let mut new = Client::enter(&all.path);
    let mut none = Client::enter(&all.path);
    old.encodings(&[16, -223]);
    new.encodings(&[5, -223, -308]);
    none.encodings(&[0]);
    for client in [&mut old, &mut none] {
        client.request(false);
        client.update();
    }
    // One that knows the extended form is told at once.
    new.request(false);
    let told = new.update();
    assert!(matches!(&told[..], [Told::Pseudo { encoding: -308, place: [0, 0, 200, 100], .. }]), "{told:?}");
    new.request(true);
    new.update();
    assert!(new.screen == all.canvas.pixels());
    all.canvas.show(321, 50, |x, y| x * y);
    for (client, encoding) in [(&mut old, -223), (&mut new, -308)] {
        client.request(true);
        let told = client.update();
        assert!(
            matches!(&told[..], [Told::Pseudo { encoding: number, place: [0, 0, 321, 50], .. }] if *number == encoding),
            "{told:?}"
        );
        client.request(true);
        client.update();
        assert!(client.screen == all.canvas.pixels());
    }
    // Who knows neither sees what fits.
    none.request(true);
    none.update();
    assert_eq!((none.size, none.screen[0], none.screen[49 * 200 + 199]), ((200, 100), 0, 49 * 199));
    // A wish for another size is refused.
    new.send(&[251, 0, 4, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0, 0]);
    new.request(true);
    let told = new.update();
    assert!(matches!(&told[..], [Told::Pseudo { encoding: -308, place: [1, 1, 321, 50], .. }]), "{told:?}");
}

#[test]
fn one_that_takes_nothing_holds_up_nobody() {
    let all = start();
    all.canvas.show(1000, 1000, |x, y| x * 977 + y * 1331);
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::enter(&all.path);
            client.request(false);
            client
        })
        .collect();
    let mut quick = Client::enter(&all.path);
    quick.encodings(&[16, -223]);
    for round in 0..20 {
        quick.request(round != 0);
        all.canvas.show(1000, 1000, |x, y| if y == 500 { round } else { x * 977 + y * 1331 });
        while !matches!(quick.update().last(), Some(Told::Pixels { .. })) {
            quick.request(false);
        }
    }
    assert_eq!(all.server.clients(), 4);
    drop(slow);
}

#[test]
fn nobody_looks_and_nothing_is_drawn() {
    let all = start();
    let mut client = Client::enter(&all.path);
    client.request(false);
    client.update();
    let drawn = all.canvas.drawn.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(300));
    assert!(all.canvas.drawn.load(Ordering::SeqCst) <= drawn + 1, "the client wants nothing");
    // And at most thirty times a second when somebody does.
    client.request(true);
    std::thread::sleep(Duration::from_millis(300));
    assert!(all.canvas.drawn.load(Ordering::SeqCst) <= drawn + 12);
}

#[test]
fn who_does_not_share_is_alone() {
    let all = start();
    let mut first = Client::enter(&all.path);
    let mut second = Client::enter(&all.path);
    let mut wire = connect(&all.path);
    authenticate(&mut wire, "008", None).unwrap();
    let mut alone = Client::init(Box::new(wire), false);
    assert!(first.is_shown_the_door() && second.is_shown_the_door());
    alone.request(false);
    alone.update();
    assert!(alone.screen == all.canvas.pixels());
}

#[test]
fn what_a_client_understands_is_told_once_and_when_it_changes() {
    let all = start();
    let mut client = Client::enter(&all.path);
    client.encodings(&[0, -239, -257, -258, -261]);
    client.request(false);
    let told = client.update();
    let pseudo = |told: &[Told]| -> Vec<(i32, u16, Vec<u8>)> {
        let one = |told: &Told| match told {
            Told::Pseudo { encoding, place, more } => Some((*encoding, place[0], more.clone())),
            Told::Pixels { .. } => None,
        };
        told.iter().filter_map(one).collect()
    };
    let at_first = [(-239, 0, vec![]), (-258, 0, vec![]), (-257, 0, vec![]), (-261, 0, vec![0])];
    assert_eq!(pseudo(&told), at_first);
    client.request(true);
    all.desk.caps.store(true, Ordering::SeqCst);
    assert_eq!(pseudo(&client.update()), [(-261, 0, vec![4])]);
    client.request(true);
    all.desk.absolute.store(true, Ordering::SeqCst);
    assert_eq!(pseudo(&client.update()), [(-257, 1, vec![])]);
}

#[test]
fn keys_become_those_of_a_us_keyboard() {
    let all = start();
    let mut client = Client::enter(&all.path);
    // A capital letter without Shift, and a small one with it.
    client.key(true, 0x41);
    client.key(false, 0x41);
    assert_eq!(all.desk.keys(4), ["shift", "a", "/shift", "/a"]);
    client.key(true, 0xffe1);
    client.key(true, 0x2f);
    client.key(false, 0x2f);
    client.key(false, 0xffe1);
    assert_eq!(all.desk.keys(6), ["shift", "/shift", "slash", "shift", "/slash", "/shift"]);
    // With Shift as it has to be, nothing is done to it.
    client.key(true, 0xffe1);
    client.key(true, 0x41);
    client.key(false, 0x61);
    client.key(false, 0x41);
    client.key(false, 0xffe1);
    assert_eq!(all.desk.keys(4), ["shift", "a", "/a", "/shift"]);
    client.key(true, 0xffe3);
    client.key(true, 0x43);
    client.key(false, 0x43);
    client.key(false, 0xffe3);
    assert_eq!(all.desk.keys(4), ["ctrl", "c", "/c", "/ctrl"]);
    all.desk.caps.store(true, Ordering::SeqCst);
    client.key(true, 0x41);
    client.key(false, 0x41);
    assert_eq!(all.desk.keys(2), ["a", "/a"]);
    // Keys with codes, one without, and one that is none.
    client.send(&[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0xc8]);
    client.send(&[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0x77, 0xc8]);
    client.send(&[255, 0, 0, 0, 0, 0, 0, 0x61, 0, 0, 0, 0xc8]);
    client.send(&[255, 0, 0, 1, 0, 0, 0xff, 0x0d, 0, 0, 0, 0]);
    assert_eq!(all.desk.keys(3), ["up", "/up", "ret"]);
    // Who goes away holds nothing.
    client.key(true, 0xffe9);
    assert_eq!(all.desk.keys(1), ["alt"]);
    drop(client);
    let mut released = all.desk.keys(2);
    released.sort();
    assert_eq!(released, ["/alt", "/ret"]);
}

#[test]
fn the_pointer_moves_by_motions_or_to_places() {
    use crate::{Buttons, Motion};
    let all = start();
    let mut client = Client::enter(&all.path);
    let pointer = |all: &Fixture, count| -> Vec<_> {
        let one = |done| match done {
            Done::Pointer(Pointer { motion, buttons, wheel }) => (motion, buttons.left, buttons.right, wheel),
            Done::Key(..) => panic!("a key"),
        };
        all.desk.wait(count).into_iter().map(one).collect()
    };
    client.pointer(0, 50, 50);
    client.pointer(5, 60, 45);
    client.pointer(8, 60, 45);
    client.pointer(16, 60, 45);
    client.pointer(0, 0, 0);
    let by = |dx, dy| Motion::By { dx, dy };
    let expected = [
        (by(0, 0), false, false, 0),
        (by(10, -5), true, true, 0),
        (by(0, 0), false, false, -1),
        (by(0, 0), false, false, 1),
        (by(-60, -45), false, false, 0),
    ];
    assert_eq!(pointer(&all, 5), expected);
    // A client that can tell motions tells them.
    client.encodings(&[0, -257]);
    client.request(false);
    client.update();
    client.pointer(0, 0x7fff + 7, 0x7fff - 3);
    assert_eq!(pointer(&all, 1), [(by(7, -3), false, false, 0)]);
    all.desk.absolute.store(true, Ordering::SeqCst);
    client.request(true);
    client.update();
    client.pointer(1, 199, 0);
    assert_eq!(pointer(&all, 1), [(Motion::To { x: u16::MAX, y: 0 }, true, false, 0)]);
    drop(client);
    let released = all.desk.wait(1);
    assert!(matches!(released[..], [Done::Pointer(Pointer { buttons: Buttons { left: false, .. }, .. })]));
}

#[test]
fn garbage_hurts_nobody() {
    let all = start();
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let mut wire = connect(&all.path);
        if round % 3 != 0 {
            authenticate(&mut wire, "008", None).unwrap();
            wire.write_all(&[1]).unwrap();
        }
        let mut bytes: Vec<u8> = (0..next() % 3000).map(|_| next() as u8).collect();
        // Messages that there are come more often than by chance.
        for at in (0..bytes.len()).step_by(10) {
            bytes[at] = [0, 2, 3, 4, 5, 6, 251, 255][next() as usize % 8];
        }
        // The server may have had enough.
        let _ = wire.write_all(&bytes);
    }
    let mut client = Client::enter(&all.path);
    client.request(false);
    client.update();
    assert!(client.screen == all.canvas.pixels());
}

#[test]
fn too_many_are_sent_away() {
    let all = start();
    let mut inside: Vec<_> = (0..super::MOST_CLIENTS).map(|_| Client::enter(&all.path)).collect();
    let mut rest = Vec::new();
    let _ = connect(&all.path).read_to_end(&mut rest);
    assert!(rest.is_empty());
    inside.pop();
    while all.server.clients() == super::MOST_CLIENTS {
        std::thread::yield_now();
    }
}
