//! The network stack, over the loopback interface.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use super::call;
use crate::workload::{Unit, Workload, mix_bytes};

pub(super) const ALL: &[Workload] = &[
    Workload::new("tcp-requests", "300 requests of 100 bytes over TCP, each with a connection of its own", requests),
    Workload::new("tcp-bulk", "4 MiB over one TCP connection", bulk),
    Workload::new("udp", "2,000 datagrams of 200 bytes to oneself", udp),
];

fn requests() -> Unit {
    Box::new(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface");
        let address = listener.local_addr().expect("it is bound");
        let child = call::child(|| {
            for _ in 0..300 {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut request = [0; 100];
                stream.read_exact(&mut request).expect("a request");
                request.reverse();
                stream.write_all(&request).expect("an open connection");
            }
            0
        });
        let mut sum = 0;
        for n in 0..300u32 {
            let mut stream = TcpStream::connect(address).expect("a server");
            stream.write_all(&[n as u8; 100]).expect("an open connection");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            sum = mix_bytes(sum, &answer);
        }
        call::wait_well(child);
        sum
    })
}

fn bulk() -> Unit {
    Box::new(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface");
        let address = listener.local_addr().expect("it is bound");
        let child = call::child(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let block: Vec<u8> = (0..64 << 10).map(|n| (n % 241) as u8).collect();
            for _ in 0..64 {
                stream.write_all(&block).expect("an open connection");
            }
            0
        });
        let mut stream = TcpStream::connect(address).expect("a server");
        let mut block = vec![0; 64 << 10];
        let mut total = 0u64;
        loop {
            match stream.read(&mut block).expect("an open connection") {
                0 => break,
                n => total += n as u64,
            }
        }
        call::wait_well(child);
        total
    })
}

fn udp() -> Unit {
    Box::new(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("the loopback interface");
        let address = socket.local_addr().expect("it is bound");
        let mut sum = 0;
        for n in 0..2_000u32 {
            socket.send_to(&[n as u8; 200], address).expect("an interface that is up");
            let mut datagram = [0; 256];
            let (len, _) = socket.recv_from(&mut datagram).expect("what was sent");
            sum = mix_bytes(sum, &datagram[..len]);
        }
        sum
    })
}
