//! Programs inside a container. Socket programs go by cgroup, and a cgroup holds processes: so this test binary runs
//! itself again, in the container's cgroup and network namespace, with an order in its environment.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

const ORDER: &str = "MALHA_TEST_ORDER";
/// Lines of ours, among those of the test harness.
const MARK: &str = "> ";

/// A running order: lines in, lines out.
pub struct Running {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// `order` in the namespace `netns` and the cgroup `cgroup`.
    pub fn start(netns: &str, cgroup: &std::path::Path, order: &str) -> Self {
        let exe = std::env::current_exe().unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && exec ip netns exec {netns} \"$@\"", cgroup.display());
        let mut process = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(exe)
            .args(["child::child", "--exact", "--nocapture"])
            .env(ORDER, order)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, input, output }
    }

    /// The next line that it prints; none when it ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // the harness prints "test child::child ... " and no line end before what we print first
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.trim_end().to_owned());
            }
        }
    }

    pub fn lines(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    pub fn say(&mut self, line: &str) -> Option<String> {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test of its own: carries out the order that the environment gives.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let addr: SocketAddr = words[1].parse().unwrap();
    match words[0] {
        "get" => (0..words[2].parse().unwrap()).for_each(|_| get(addr)),
        "hold" => hold(addr),
        "serve-udp" => serve_udp(addr, words[2]),
        "probe" => probe(addr),
        "udp" => udp(addr, words[2].parse().unwrap()),
        other => panic!("unknown order {other}"),
    }
}

/// One connection: what the server says first, and whom the program thinks it talks to.
fn get(addr: SocketAddr) {
    let said = TcpStream::connect_timeout(&addr, Duration::from_secs(2)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let peer = stream.peer_addr()?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(format!("{} peer {peer}", text.trim_end()))
    });
    match said {
        Ok(said) => println!("{MARK}{said}"),
        Err(e) => println!("{MARK}error {:?}", e.raw_os_error().unwrap_or(-1)),
    }
}

/// One connection that stays: every line in is sent, every line back is printed.
fn hold(addr: SocketAddr) {
    let stream = TcpStream::connect(addr).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    print!("{MARK}{line}");
    for request in std::io::stdin().lock().lines() {
        line.clear();
        let answer = writeln!(&stream, "{}", request.unwrap()).and_then(|()| reader.read_line(&mut line));
        match answer {
            Ok(0) => println!("{MARK}closed"),
            Ok(_) => print!("{MARK}{line}"),
            Err(e) => println!("{MARK}error {}", e.raw_os_error().unwrap_or(-1)),
        }
    }
}

/// Answers each datagram with its name and the sender's address, as most servers do: on whatever address.
fn serve_udp(addr: SocketAddr, name: &str) {
    let socket = UdpSocket::bind(addr).unwrap();
    println!("{MARK}ready");
    let mut buffer = vec![0; 1 << 16];
    while let Ok((size, from)) = socket.recv_from(&mut buffer) {
        // as large as the question, where that is larger
        let answer = format!("{:size$}", format!("{name} sees {}", from.ip().to_canonical()));
        let _ = socket.send_to(answer.as_bytes(), from);
    }
}

/// One unconnected socket, many datagrams.
fn udp(addr: SocketAddr, count: usize) {
    let socket = UdpSocket::bind(if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for _ in 0..count {
        let mut buffer = [0; 200];
        let said = socket.send_to(b"hello", addr).and_then(|_| socket.recv_from(&mut buffer));
        match said {
            Ok((n, from)) => println!("{MARK}{} from {from}", String::from_utf8_lossy(&buffer[..n])),
            Err(e) => println!("{MARK}error {}", e.raw_os_error().unwrap_or(-1)),
        }
    }
}

/// Only asks which source a datagram would have.
fn probe(addr: SocketAddr) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    match socket.connect(addr).and_then(|()| socket.local_addr()) {
        Ok(from) => println!("{MARK}from {}", from.ip()),
        Err(e) => println!("{MARK}error {}", e.raw_os_error().unwrap_or(-1)),
    }
}
