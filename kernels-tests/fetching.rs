//! `tools/fetch-jawiki` against a server of our own: whole, cut and resumed, with a wrong checksum, on a full disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const ARTICLES: &str = "jawiki-20261101-pages-articles-multistream.xml.bz2";
const INDEX: &str = "jawiki-20261101-pages-articles-multistream-index.txt.bz2";

/// What is served, and what was asked for: a line a request, its method, path and range.
#[derive(Default)]
struct Served {
    files: BTreeMap<String, Vec<u8>>,
    asked: Vec<String>,
    /// The next answer with a body breaks off after so many bytes.
    cut: Option<usize>,
}

fn answer(stream: TcpStream, served: &Mutex<Served>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        headers.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned))
    };
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let from = header("range: bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let mut served = served.lock().expect("not poisoned");
    served.asked.push(format!("{method} {path} {}", from.unwrap_or(0)));
    assert!(header("user-agent: ").is_some_and(|agent| agent.starts_with("inazuma-fetch-jawiki")));
    let mut stream = stream;
    let Some(body) = served.files.get(path).cloned() else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let begin = from.unwrap_or(0).min(body.len());
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    let range = from.map_or(String::new(), |from| {
        format!("Content-Range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len())
    });
    let length = body.len() - begin;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}Connection: close\r\n\r\n")?;
    if method == "HEAD" {
        return Ok(());
    }
    let cut = if path.ends_with(ARTICLES) { served.cut.take() } else { None };
    stream.write_all(&body[begin..cut.map_or(body.len(), |cut| begin + cut)])
}

/// Serves until the test ends; the address.
fn serve(served: Arc<Mutex<Served>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &served);
        }
    });
    address
}

fn sha1(bytes: &[u8], folder: &Path) -> String {
    let path = folder.join("summed");
    fs::write(&path, bytes).expect("written");
    let output = Command::new("sha1sum").arg(&path).output().expect("sha1sum");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().expect("a sum").to_owned()
}

/// A dump of 300 kB, with its checksums under its date and as the latest.
fn dump(folder: &Path) -> Served {
    let articles: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let index = b"0:1:title\n".repeat(50);
    let sums =
        format!("{}  {ARTICLES}\n{}  {INDEX}\n", sha1(&articles, folder), sha1(&index, folder)).into_bytes();
    let files = [
        ("/jawiki/latest/jawiki-latest-sha1sums.txt".to_owned(), sums.clone()),
        ("/jawiki/20261101/jawiki-20261101-sha1sums.txt".to_owned(), sums),
        (format!("/jawiki/20261101/{ARTICLES}"), articles),
        (format!("/jawiki/20261101/{INDEX}"), index),
    ];
    Served { files: BTreeMap::from(files), ..Served::default() }
}

fn fetch(folder: &Path, arguments: &[&str], path: Option<&Path>) -> Output {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/fetch-jawiki"));
    if let Some(first) = path {
        let rest = std::env::var("PATH").expect("a PATH");
        command.env("PATH", format!("{}:{rest}", first.display()));
    }
    command
        .args(arguments)
        .current_dir(folder)
        .env("FETCH_PAUSE", "0")
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("bash")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: fetching: there is no curl");
    }
    there
}

#[test]
fn a_dump_is_loaded_once_and_goes_on_where_it_was_cut() {
    if !has_curl() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Arc::new(Mutex::new(Served { cut: Some(100_000), ..dump(folder.path()) }));
    let mirror = serve(served.clone());
    let output = fetch(folder.path(), &["--out", "dump", "--mirror", &mirror], None);
    assert!(output.status.success(), "{}", errors(&output));
    for name in [ARTICLES, INDEX] {
        let loaded = fs::read(folder.path().join("dump").join(name)).expect("loaded");
        assert!(loaded == served.lock().unwrap().files[&format!("/jawiki/20261101/{name}")], "{name}");
    }
    let asked = std::mem::take(&mut served.lock().unwrap().asked);
    assert!(asked.contains(&format!("GET /jawiki/20261101/{ARTICLES} 100000")), "it went on: {asked:?}");
    assert!(errors(&output).contains("going on at"), "{}", errors(&output));

    let again = fetch(folder.path(), &["20261101", "--out", "dump", "--mirror", &mirror], None);
    assert!(again.status.success() && errors(&again).contains("is there"), "{}", errors(&again));
    let asked = &served.lock().unwrap().asked;
    assert!(!asked.iter().any(|line| line.contains(ARTICLES)), "nothing is loaded twice: {asked:?}");
}

#[test]
fn a_wrong_checksum_is_set_aside() {
    if !has_curl() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut wrong = dump(folder.path());
    wrong.files.get_mut(&format!("/jawiki/20261101/{ARTICLES}")).expect("served")[1_000] ^= 1;
    let mirror = serve(Arc::new(Mutex::new(wrong)));
    let output = fetch(folder.path(), &["--mirror", &mirror], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("has not the checksum"), "{}", errors(&output));
    assert!(!folder.path().join(ARTICLES).exists() && folder.path().join(INDEX).exists());
    assert!(folder.path().join(format!("{ARTICLES}.damaged")).exists());
}

#[test]
fn a_full_disk_and_a_dump_that_is_not_there_are_said_first() {
    if !has_curl() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let served = Arc::new(Mutex::new(dump(folder.path())));
    let mirror = serve(served.clone());
    let output = fetch(folder.path(), &["20200101", "--mirror", &mirror], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("there is no dump jawiki/20200101"), "{}", errors(&output));

    let programs = folder.path().join("bin");
    fs::create_dir(&programs).expect("made");
    let df = programs.join("df");
    fs::write(&df, "#!/bin/sh\necho head\necho disk 1000 900 100 90% /\n").expect("written");
    fs::set_permissions(&df, fs::Permissions::from_mode(0o755)).expect("executable");
    let output = fetch(folder.path(), &["--mirror", &mirror], Some(&programs));
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("make room"), "{}", errors(&output));
    // The server wants the lock again for what follows.
    let asked = std::mem::take(&mut served.lock().unwrap().asked);
    assert!(!asked.iter().any(|line| line.starts_with("GET") && line.contains(ARTICLES)), "{asked:?}");

    let dry = fetch(folder.path(), &["--mirror", &mirror, "--dry-run"], None);
    assert!(dry.status.success() && errors(&dry).contains("0.30 MB to load"), "{}", errors(&dry));
    assert!(!folder.path().join(ARTICLES).exists());
}
