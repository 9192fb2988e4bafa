//! Bytes in and out: none lost, nobody blocked who need not be.

use crate::client::*;
use crate::harness::*;
use conex_proto::task::*;
use std::io::{Read, Write};

fn stdout(uri: String) -> Stdio {
    Stdio { stderr: uri.clone(), stdout: uri, ..Stdio::default() }
}

#[test]
fn every_byte_at_the_end() {
    let b = Box::sh("dd if=/dev/zero bs=65536 count=128 2>/dev/null; echo -n last");
    let shim = Shim::start(&b);
    let out = Reader::new(b.dir.join("o"));
    shim.create(&b, &stdout(out.uri()));
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.delete(&b.id, "");
    let all = out.all();
    assert_eq!(all.len(), 128 * 65536 + 4);
    assert!(all.ends_with(b"last"));
    shim.finish(&b.id);
}

#[test]
fn input_ends_with_close_io() {
    let b = Box::sh("cat; echo done");
    let shim = Shim::start(&b);
    let out = Reader::new(b.dir.join("o"));
    let input = b.dir.join("i");
    fifo(&input);
    // containerd's client opens for reading and writing, as there may be no reader yet.
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    let stdio = Stdio { stdin: input.to_string_lossy().into_owned(), ..stdout(out.uri()) };
    shim.create(&b, &stdio);
    shim.start_task(&b.id, "");
    writer.write_all(b"first ").unwrap();
    drop(writer);
    // A client that goes away does not end the input; CloseIO does, when the last writer is gone.
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::fs::OpenOptions::new().write(true).open(&input).unwrap().write_all(b"second ").unwrap();
    shim.ok::<()>(
        "CloseIO",
        &CloseIoRequest { id: b.id.clone(), stdin: true, ..CloseIoRequest::default() },
    );
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.delete(&b.id, "");
    assert_eq!(out.text(), "first second done\n");
    shim.finish(&b.id);
}

#[test]
fn a_reader_may_go_and_come_back() {
    let b = Box::sh("seq 1 20000; echo end");
    let shim = Shim::start(&b);
    let path = b.dir.join("o");
    fifo(&path);
    let first = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    shim.create(&b, &stdout(path.to_string_lossy().into_owned()));
    shim.start_task(&b.id, "");
    let mut buffer = [0u8; 6];
    (&first).read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"1\n2\n3\n");
    drop(first);
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut second = std::fs::File::open(&path).unwrap();
    let mut rest = String::new();
    second.read_to_string(&mut rest).unwrap();
    let want: String = (4..=20000).map(|n| format!("{n}\n")).collect::<String>() + "end\n";
    assert!(rest == want, "{} bytes of {}", rest.len(), want.len());
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.finish(&b.id);
}

#[test]
fn files_are_appended_to() {
    let b = Box::sh("echo more; echo bad >&2");
    let shim = Shim::start(&b);
    let file = b.dir.join("logs/out.log");
    std::fs::create_dir(b.dir.join("logs")).unwrap();
    std::fs::write(&file, "before\n").unwrap();
    let uri = format!("file://{}", file.display());
    shim.create(&b, &Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() });
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.delete(&b.id, "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("before\n") && text.contains("more\n") && text.contains("bad\n"),
        "{text}"
    );
    shim.finish(&b.id);
}

#[test]
fn a_logging_program_gets_everything() {
    let b = Box::sh("echo to the logger; echo errors too >&2");
    let shim = Shim::start(&b);
    let program = b.dir.join("logger.sh");
    let script = format!(
        "#!/bin/sh\nd={}\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $*\" > $d/log-args\nexec 5>&-\ncat <&4 > $d/log-err &\ncat <&3 > $d/log-out\nwait\necho end > $d/log-end\n",
        b.dir.display()
    );
    executable(&program, script.as_bytes());
    let mode = |m: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(m)).unwrap();
    };
    let uri = format!("binary://{}?key=a%20b", program.display());
    if is_ours() {
        // Everybody could have written it.
        mode(0o777);
        let request = shim.create_request(&b, &stdout(uri.clone()));
        shim.fails("Create", &request, 3, "writable for nobody else");
    }
    mode(0o755);
    shim.create(&b, &stdout(uri));
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.delete(&b.id, "");
    let read = |name: &str| std::fs::read_to_string(b.dir.join(name)).unwrap_or_default();
    until(|| read("log-end") == "end\n", "the logger's end");
    assert_eq!(read("log-out"), "to the logger\n");
    assert_eq!(read("log-err"), "errors too\n");
    assert_eq!(read("log-args").trim(), format!("{} conex-test key a b", b.id));
    shim.finish(&b.id);
}

/// containerd 2.3: a logger that crashes is not one that is ready.
#[test]
fn a_logging_program_says_that_it_is_ready() {
    if !is_ours() {
        return;
    }
    for (say, works) in [("printf r >&5", true), ("exec 5>&-; sleep 1", false), ("exit 3", false)] {
        let b = Box::sh("echo a line");
        let shim = Shim::start(&b);
        let program = b.dir.join("logger.sh");
        executable(
            &program,
            format!("#!/bin/sh\n{say}\ncat <&3 >{}/log-out\n", b.dir.display()).as_bytes(),
        );
        let request =
            shim.create_request(&b, &stdout(format!("binary-v2://{}", program.display())));
        if works {
            shim.ok::<CreateTaskResponse>("Create", &request);
            shim.start_task(&b.id, "");
            shim.wait(&b.id, "");
            shim.delete(&b.id, "");
            let log = || std::fs::read_to_string(b.dir.join("log-out")).unwrap_or_default();
            until(|| log() == "a line\n", "the line");
        } else {
            let part = if say.starts_with("exit") { "" } else { "without a byte" };
            shim.fails("Create", &request, 2, part);
        }
        shim.finish(&b.id);
        b.assert_gone();
    }
}

#[test]
fn a_terminal_with_a_size() {
    let mut b =
        Box::sh("read line; stty size; tty=$(readlink /proc/self/fd/0); echo $tty; echo got $line");
    *b.at("process.terminal") = serde_json::json!(true);
    let shim = Shim::start(&b);
    let out = Reader::new(b.dir.join("o"));
    let input = b.dir.join("i");
    fifo(&input);
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    let stdio =
        Stdio { stdin: input.to_string_lossy().into_owned(), terminal: true, ..stdout(out.uri()) };
    shim.create(&b, &stdio);
    shim.start_task(&b.id, "");
    let size = ResizePtyRequest {
        id: b.id.clone(),
        width: 101,
        height: 37,
        ..ResizePtyRequest::default()
    };
    shim.ok::<()>("ResizePty", &size);
    writer.write_all(b"hello\n").unwrap();
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.delete(&b.id, "");
    let text = out.text().replace('\r', "");
    assert!(
        text.contains("37 101\n") && text.contains("/dev/pts/0") && text.contains("got hello"),
        "{text:?}"
    );
    shim.finish(&b.id);
}

#[test]
fn an_unknown_scheme_is_refused() {
    let b = Box::sh("true");
    let shim = Shim::start(&b);
    let request = shim.create_request(&b, &stdout("gopher://x".into()));
    let e = shim.call::<CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(e.message.contains("unknown STDIO scheme gopher"), "{e:?}");
    b.assert_gone();
    shim.finish(&b.id);
}

/// An open that waits would stop every task of the shim: what is no file is refused at once.
#[test]
fn a_file_that_is_a_fifo_stops_nobody() {
    let b = Box::sh("echo x");
    let other = Box::sh("exit 4");
    let shim = Shim::start(&b);
    if !is_ours() {
        return shim.finish(&b.id);
    }
    let path = b.dir.join("pipe");
    fifo(&path);
    let begin = std::time::Instant::now();
    let request = shim.create_request(&b, &stdout(format!("file://{}", path.display())));
    let e = shim.call::<CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(e.message.contains("pipe"), "{e:?}");
    // Even with a reader it is not what a log file is.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    shim.fails("Create", &request, 3, "neither a regular file nor a device");
    // A document that is a FIFO as well.
    other.write_config();
    let config = other.dir.join("config.json");
    std::fs::rename(&config, other.dir.join("saved")).unwrap();
    fifo(&config);
    shim.fails("Create", &shim.create_request(&other, &Stdio::default()), 3, "config.json");
    std::fs::rename(other.dir.join("saved"), &config).unwrap();
    shim.create(&other, &Stdio::default());
    shim.start_task(&other.id, "");
    assert_eq!(shim.wait(&other.id, ""), 4);
    shim.delete(&other.id, "");
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    shim.create(&b, &stdout(format!("file://{}", b.dir.join("logs/of/it").display())));
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.finish(&b.id);
}
