//! A small HTTP/1.1 client: one connection that is kept, bodies with a length or in chunks, events as they come.
//!
//! Own code, because the client shares the machine with the server that it measures: a blocking read of a thread that
//! sleeps costs next to nothing, and the time of an event is the time at which its line was there.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest line of a response that is read.
const LONGEST_LINE: u64 = 16 << 20;
/// Longest body that is read whole.
const LONGEST_BODY: u64 = 64 << 20;
/// Bytes read at once.
const BUFFER: usize = 4 << 10;

/// A connection to a server, opened when it is needed and kept as long as the server keeps it.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    patience: Duration,
    connection: Option<BufReader<Stream>>,
}

/// An answer of which the head is read.
#[derive(Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    body: BufReader<Body<'a>>,
}

impl Client {
    /// A client of the server at `address` that waits at most `patience` for each piece of an answer.
    #[must_use]
    pub fn new(address: SocketAddr, patience: Duration) -> Self {
        Self { address, patience, connection: None }
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// The server cannot be reached or does not speak HTTP.
    pub fn get(&mut self, path: &str) -> Result<Response<'_>> {
        self.request("GET", path, None)
    }

    /// Sends `json` to `path`.
    ///
    /// # Errors
    /// Those of [`Client::get`].
    pub fn post(&mut self, path: &str, json: &str) -> Result<Response<'_>> {
        self.request("POST", path, Some(json))
    }

    fn request(&mut self, method: &str, path: &str, json: Option<&str>) -> Result<Response<'_>> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        if let Some(json) = json {
            text +=
                &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{json}", json.len());
        } else {
            text += "\r\n";
        }
        // A server may have closed a connection that it kept: that shows only when it is used again.
        let kept = self.connection.take();
        let on_kept = kept.and_then(|connection| exchange(connection, &text).ok());
        let (connection, head) = match on_kept {
            Some(answered) => answered,
            None => exchange(self.connect()?, &text).with_context(|| format!("{method} {path}"))?,
        };
        let closes = head.closes;
        let body = Body { client: self, connection: Some(connection), left: head.body, closes };
        Ok(Response { status: head.status, body: BufReader::with_capacity(BUFFER, body) })
    }

    fn connect(&self) -> Result<BufReader<Stream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.patience)
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(BufReader::with_capacity(BUFFER, Stream(stream)))
    }
}

/// A stream whose every packet is acknowledged at once. Servers that do not turn off Nagle's algorithm wait for that
/// before they send the next token, and a client that lets them wait would measure its own 40 ms.
#[derive(Debug)]
struct Stream(TcpStream);

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        {
            // The system turns it off again by itself. Where it cannot be turned on, times are longer and nothing fails.
            let _only_slower = socket2::SockRef::from(&self.0).set_tcp_quickack(true);
        }
        self.0.read(into)
    }
}

impl Response<'_> {
    /// The whole body as text.
    ///
    /// # Errors
    /// It ends early, is too long or is not UTF-8.
    pub fn text(self) -> Result<String> {
        let mut text = String::new();
        self.body.take(LONGEST_BODY).read_to_string(&mut text)?;
        Ok(text)
    }

    /// The same, of an answer that has to be a success.
    ///
    /// # Errors
    /// Another status, with the beginning of what the server said; those of [`Response::text`].
    pub fn success(self) -> Result<String> {
        let status = self.status;
        let text = self.text()?;
        ensure!(status == 200, "status {status}: {}", text.chars().take(300).collect::<String>());
        Ok(text)
    }

    /// The next line of a stream of events, without its end; nothing at the end of the stream.
    ///
    /// # Errors
    /// The connection breaks, or is silent for longer than the client's patience.
    pub fn line(&mut self) -> Result<Option<String>> {
        Ok(line(&mut self.body)?)
    }
}

/// What the head of an answer says.
struct Head {
    status: u16,
    body: Left,
    closes: bool,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// So many bytes.
    Bytes(u64),
    /// So many bytes of a chunk, and whatever comes after it.
    Chunk(u64),
    /// All until the server closes.
    UntilClosed,
}

fn exchange(mut connection: BufReader<Stream>, text: &str) -> Result<(BufReader<Stream>, Head)> {
    connection.get_mut().0.write_all(text.as_bytes())?;
    let head = head(&mut connection)?;
    Ok((connection, head))
}

fn head(source: &mut impl BufRead) -> Result<Head> {
    let first = line(source)?.context("the server closed the connection instead of answering")?;
    let code = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let status = code.and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("`{first}` is no answer in HTTP"))?;
    let mut head = Head { status, body: Left::UntilClosed, closes: false };
    loop {
        let header = line(source)?.context("the answer ends within its head")?;
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { bail!("`{header}` is no header") };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) if head.body == Left::UntilClosed => {
                head.body = Left::Bytes(value.parse().context("content-length is no number")?);
            }
            ("transfer-encoding", value) if value.eq_ignore_ascii_case("chunked") => {
                head.body = Left::Chunk(0);
            }
            ("connection", value) => head.closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    head.closes |= head.body == Left::UntilClosed;
    Ok(head)
}

/// A line without its end; nothing where the source has ended.
fn line(source: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if source.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    String::from_utf8(bytes).map(Some).map_err(|_| io::Error::other("a line is not UTF-8"))
}

/// A body that is being read. The connection goes back to its client when the body has been read to its end.
#[derive(Debug)]
struct Body<'a> {
    client: &'a mut Client,
    connection: Option<BufReader<Stream>>,
    left: Left,
    closes: bool,
}

impl Body<'_> {
    fn end(&mut self) -> usize {
        let connection = self.connection.take();
        self.client.connection = connection.filter(|_| !self.closes);
        0
    }
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(connection) = &mut self.connection else { return Ok(0) };
        if self.left == Left::Chunk(0) {
            let size = chunk_size(connection)?;
            if size == 0 {
                return Ok(self.end());
            }
            self.left = Left::Chunk(size);
        }
        let (Left::Bytes(left) | Left::Chunk(left)) = &mut self.left else {
            return connection.read(into);
        };
        if *left == 0 {
            return Ok(self.end());
        }
        let most = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let count = connection.read(&mut into[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed within an answer"));
        }
        *left -= count as u64;
        if self.left == Left::Chunk(0) {
            line(connection)?;
        }
        Ok(count)
    }
}

/// The size of the next chunk; after the last, which has none, the trailers are read as well.
fn chunk_size(source: &mut impl BufRead) -> io::Result<u64> {
    let early = || io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed between two chunks");
    let head = line(source)?.ok_or_else(early)?;
    let digits = head.split(';').next().unwrap_or_default().trim();
    let size = u64::from_str_radix(digits, 16)
        .map_err(|_| io::Error::other(format!("`{head}` is no size of a chunk")))?;
    if size == 0 {
        while !line(source)?.ok_or_else(early)?.is_empty() {}
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A server that answers the requests of each connection in order, a connection after the other.
    fn serve(connections: Vec<Vec<&'static str>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for answers in connections {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                for answer in answers {
                    while line(&mut stream).unwrap().is_some_and(|line| !line.is_empty()) {}
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        address
    }

    #[test]
    fn a_connection_is_kept_and_replaced_when_the_server_has_closed_it() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let closing = "HTTP/1.1 503 Later\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy";
        let address = serve(vec![vec![whole, whole], vec![closing], vec![whole]]);
        let mut client = Client::new(address, Duration::from_secs(5));
        for _ in 0..2 {
            assert_eq!(client.get("/").unwrap().success().unwrap(), "ok");
        }
        let error = client.get("/").unwrap().success().unwrap_err();
        assert!(error.to_string().contains("status 503: busy"), "{error}");
        assert_eq!(client.get("/").unwrap().success().unwrap(), "ok");
    }

    #[test]
    fn events_come_line_by_line_however_they_are_cut_into_chunks() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let stream = format!("{head}8\r\ndata: on\r\n9;x=y\r\ne\n\ndata: \r\n4\r\ntwo\n\r\n0\r\n\r\n");
        let address = serve(vec![vec![stream.leak(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]]);
        let mut client = Client::new(address, Duration::from_secs(5));
        let mut response = client.get("/").unwrap();
        let mut lines = Vec::new();
        while let Some(line) = response.line().unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["data: one", "", "data: two"]);
        assert_eq!(client.get("/").unwrap().success().unwrap(), "", "the connection was kept");
    }

    #[test]
    fn what_ends_early_or_is_no_http_is_an_error() {
        for (answer, message) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "closed within an answer"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "between two chunks"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no size of a chunk"),
        ] {
            let mut client = Client::new(serve(vec![vec![answer]]), Duration::from_secs(5));
            let error = client.get("/").unwrap().text().unwrap_err();
            assert!(format!("{error:#}").contains(message), "{answer}: {error:#}");
        }
        let mut client = Client::new(serve(vec![vec!["SMTP\r\n\r\n"]]), Duration::from_secs(5));
        assert!(format!("{:#}", client.get("/").unwrap_err()).contains("no answer in HTTP"));
    }
}
