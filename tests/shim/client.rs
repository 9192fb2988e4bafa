//! Plays containerd: starts a shim, speaks ttrpc to it, takes its events.

use crate::harness::{self, until};
use conex_proto::prost::Message;
use conex_proto::types::{Envelope, ForwardRequest};
use conex_proto::{any, runc, task::*, ttrpc as wire, Any};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub fn binary() -> PathBuf {
    std::env::var_os("SHIM")
        .map_or_else(|| panic!("SHIM must name the shim's binary"), PathBuf::from)
}

/// True for ours, false when the tests are tried on containerd's.
pub fn is_ours() -> bool {
    binary().to_string_lossy().contains("conex")
}

/// containerd's side of the events: a ttrpc server that takes everything.
pub struct Events {
    pub path: PathBuf,
    list: Arc<Mutex<Vec<Envelope>>>,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Events {
    pub fn listen(path: &Path) -> Events {
        let events =
            Events { path: path.to_path_buf(), list: Arc::default(), open: Arc::default() };
        events.again();
        events
    }

    /// containerd is back after [`Events::cut`].
    pub fn again(&self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        let (taken, opened) = (self.list.clone(), self.open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = taken.clone();
                opened.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || take(stream, &taken));
            }
        });
    }

    /// containerd is gone: no socket, no connection.
    pub fn cut(&self) {
        std::fs::remove_file(&self.path).unwrap();
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn all(&self) -> Vec<Envelope> {
        self.list.lock().unwrap().clone()
    }

    pub fn topics(&self) -> Vec<String> {
        self.all().into_iter().map(|e| e.topic).collect()
    }

    /// The events of one type, decoded.
    pub fn of<M: Message + Default>(&self, topic: &str) -> Vec<M> {
        let all = self.all();
        let found = all.iter().filter(|e| e.topic == topic);
        found.map(|e| M::decode(e.event.as_ref().unwrap().value.as_slice()).unwrap()).collect()
    }

    #[track_caller]
    pub fn wait(&self, topic: &str, count: usize) {
        until(|| self.topics().iter().filter(|t| *t == topic).count() >= count, topic);
    }
}

fn frame(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let mut out = (message.len() as u32).to_be_bytes().to_vec();
    out.extend(stream.to_be_bytes());
    out.extend([kind, 0]);
    out.extend(message);
    out
}

fn take(mut stream: UnixStream, list: &Mutex<Vec<Envelope>>) {
    loop {
        let mut head = [0u8; 10];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let mut body = vec![0u8; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let request = wire::Request::decode(body.as_slice()).unwrap();
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            ("containerd.services.events.ttrpc.v1.Events", "Forward")
        );
        let event = ForwardRequest::decode(request.payload.as_slice()).unwrap().envelope.unwrap();
        list.lock().unwrap().push(event);
        let id = u32::from_be_bytes(head[4..8].try_into().unwrap());
        if stream.write_all(&frame(id, 2, &wire::Response::default().encode_to_vec())).is_err() {
            return;
        }
    }
}

/// A failure as the client sees it.
#[derive(Debug)]
pub struct Failed {
    pub code: i32,
    pub message: String,
}

/// A shim that runs, and a connection to it.
pub struct Shim {
    pub dir: PathBuf,
    pub address: PathBuf,
    pub events: Events,
    pub client: ttrpc::Client,
    pub service: String,
}

/// The `start` action in a bundle, with what containerd gives it.
pub fn start_command(dir: &Path, bundle: &Path, id: &str) -> Command {
    start_command_of(&binary(), dir, bundle, id)
}

fn start_command_of(shim: &Path, dir: &Path, bundle: &Path, id: &str) -> Command {
    let mut c = Command::new(shim);
    c.args(["-namespace", "conex-test", "-id", id, "-publish-binary", "/bin/false", "-address"]);
    c.arg(dir.join("containerd.sock")).arg("start").current_dir(bundle);
    c.env("TTRPC_ADDRESS", dir.join("events.sock"))
        .env("GRPC_ADDRESS", dir.join("containerd.sock"));
    c.env("NAMESPACE", "conex-test");
    c
}

pub fn options() -> Any {
    options_with("")
}

/// With a cgroup for the shim itself.
pub fn options_with(shim_cgroup: &str) -> Any {
    // Root outside any bundle: a runtime's state must not go with it.
    let root = std::env::var_os("CONEX_TEST_DIR")
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join("shim-state");
    let options = runc::Options {
        binary_name: harness::runtime().to_string_lossy().into_owned(),
        root: root.to_string_lossy().into_owned(),
        shim_cgroup: shim_cgroup.into(),
        ..runc::Options::default()
    };
    any("containerd.runc.v1.Options", &options)
}

pub fn address(answer: &str) -> PathBuf {
    let text = match serde_json::from_str::<serde_json::Value>(answer) {
        Ok(v) => v["address"].as_str().unwrap().to_string(),
        Err(_) => answer.to_string(),
    };
    text.strip_prefix("unix://").unwrap_or_else(|| panic!("{text}")).into()
}

impl Shim {
    /// Starts one for the bundle of this box.
    pub fn start(b: &harness::Box) -> Shim {
        Shim::start_from(b, &binary())
    }

    /// The same with a binary of its own.
    pub fn start_from(b: &harness::Box, shim: &Path) -> Shim {
        Shim::start_by(b, start_command_of(shim, &b.dir, &b.dir, &b.id))
    }

    /// The same by a command before the shim's, `prlimit --nofile=64 …`.
    pub fn start_below(b: &harness::Box, before: &[&str]) -> Shim {
        let shim = start_command(&b.dir, &b.dir, &b.id);
        let mut command = Command::new(before[0]);
        command
            .args(&before[1..])
            .arg(shim.get_program())
            .args(shim.get_args())
            .current_dir(&b.dir);
        command.envs(shim.get_envs().map(|(name, value)| (name, value.unwrap())));
        Shim::start_by(b, command)
    }

    /// The same in a cgroup of its own.
    pub fn start_in(b: &harness::Box, cgroup: &str) -> Shim {
        Shim::start_with(b, start_command(&b.dir, &b.dir, &b.id), &options_with(cgroup))
    }

    fn start_by(b: &harness::Box, command: Command) -> Shim {
        Shim::start_with(b, command, &options())
    }

    fn start_with(b: &harness::Box, mut command: Command, options: &Any) -> Shim {
        let dir = b.dir.clone();
        let events = Events::listen(&dir.join("events.sock"));
        b.write_config();
        fifo(&dir.join("log"));
        let log = std::fs::OpenOptions::new().read(true).write(true).open(dir.join("log")).unwrap();
        let copy = std::fs::File::create(dir.join("shim.log")).unwrap();
        // What containerd does with the log.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut &log, &mut &copy);
        });
        let r = harness::finish(&mut command, &options.encode_to_vec()).ok();
        assert_eq!(r.err, "");
        let address = address(&r.out);
        Shim::connect(&dir, &address, events)
    }

    pub fn connect(dir: &Path, address: &Path, events: Events) -> Shim {
        let client = ttrpc::Client::connect(&format!("unix://{}", address.display())).unwrap();
        Shim {
            dir: dir.to_path_buf(),
            address: address.to_path_buf(),
            events,
            client,
            service: std::env::var("TASK_SERVICE").unwrap_or("containerd.task.v2.Task".into()),
        }
    }

    pub fn raw(&self, service: &str, method: &str, payload: Vec<u8>) -> Result<Vec<u8>, Failed> {
        raw(&self.client, service, method, payload)
    }

    pub fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Failed> {
        let payload = self.raw(&self.service, method, request.encode_to_vec())?;
        Ok(A::decode(payload.as_slice()).unwrap())
    }

    #[track_caller]
    pub fn ok<A: Message + Default>(&self, method: &str, request: &impl Message) -> A {
        self.call(method, request).unwrap_or_else(|e| panic!("{method}: {e:?}\n{}", self.log()))
    }

    /// The call must fail with this code and a text that has `part` in it.
    #[track_caller]
    pub fn fails(&self, method: &str, request: &impl Message, code: i32, part: &str) {
        match self.call::<()>(method, request) {
            Ok(()) => panic!("{method} succeeded, expected {part:?}"),
            Err(e) => {
                assert!(
                    e.code == code && e.message.contains(part),
                    "{method}: {e:?}, expected {code} {part:?}"
                )
            }
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("shim.log")).unwrap_or_default()
    }

    pub fn pid(&self, id: &str) -> i32 {
        self.ok::<ConnectResponse>("Connect", &IdRequest { id: id.into() }).shim_pid as i32
    }

    pub fn create(&self, b: &harness::Box, stdio: &Stdio) -> u32 {
        self.ok::<CreateTaskResponse>("Create", &self.create_request(b, stdio)).pid
    }

    pub fn create_request(&self, b: &harness::Box, stdio: &Stdio) -> CreateTaskRequest {
        CreateTaskRequest {
            id: b.id.clone(),
            bundle: b.dir.to_string_lossy().into_owned(),
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            options: Some(options()),
            ..CreateTaskRequest::default()
        }
    }

    pub fn start_task(&self, id: &str, exec: &str) -> u32 {
        self.ok::<StartResponse>("Start", &StartRequest { id: id.into(), exec_id: exec.into() }).pid
    }

    pub fn wait(&self, id: &str, exec: &str) -> u32 {
        self.ok::<WaitResponse>("Wait", &WaitRequest { id: id.into(), exec_id: exec.into() })
            .exit_status
    }

    pub fn delete(&self, id: &str, exec: &str) -> DeleteResponse {
        self.ok("Delete", &DeleteRequest { id: id.into(), exec_id: exec.into() })
    }

    pub fn kill(&self, id: &str, exec: &str, signal: i32) {
        let request =
            KillRequest { id: id.into(), exec_id: exec.into(), signal: signal as u32, all: false };
        self.ok::<()>("Kill", &request);
    }

    pub fn exec(&self, id: &str, exec: &str, args: &[&str], stdio: &Stdio) -> Result<(), Failed> {
        self.call("Exec", &exec_request(id, exec, args, stdio))
    }

    pub fn state(&self, id: &str, exec: &str) -> StateResponse {
        self.ok("State", &StateRequest { id: id.into(), exec_id: exec.into() })
    }

    /// Ends everything: the task, then the shim, which must go.
    pub fn finish(self, id: &str) {
        let _ = self.call::<()>(
            "Kill",
            &KillRequest { id: id.into(), signal: 9, all: true, ..KillRequest::default() },
        );
        let _ = self
            .call::<WaitResponse>("Wait", &WaitRequest { id: id.into(), ..WaitRequest::default() });
        let _ = self.call::<DeleteResponse>(
            "Delete",
            &DeleteRequest { id: id.into(), ..DeleteRequest::default() },
        );
        let pid = self.pid(id);
        let _ = self.call::<()>("Shutdown", &ShutdownRequest { id: id.into(), now: true });
        until(|| !Path::new(&format!("/proc/{pid}")).exists() || zombie(pid), "the shim ends");
        assert!(!self.address.exists(), "the socket is left");
    }
}

pub fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// A connection to the next server behind the same socket; containerd, who takes the events, is the same.
pub fn reconnect(shim: Shim) -> Shim {
    let (dir, address) = (shim.dir.clone(), shim.address.clone());
    Shim::connect(&dir, &address, shim.events)
}

/// A number that differs from call to call, below `n`.
pub fn random(state: &mut u64, n: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % n
}

/// What a process has open, in order: `socket:[4711]`.
pub fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut all: Vec<_> =
        entries.flat_map(|e| e.path().read_link()).map(|p| p.display().to_string()).collect();
    all.sort();
    all
}

/// Until the server has no more open than that; says what it is otherwise. It keeps streams for ten seconds that nobody
/// has opened yet.
#[track_caller]
pub fn closed(shim: &Shim, id: &str, before: &[String]) {
    let mut patience = harness::Patience::of(20);
    loop {
        let mut now = descriptors(shim.pid(id));
        if now.len() <= before.len() {
            return;
        }
        now.retain(|f| !before.contains(f));
        assert!(patience.is_left(), "still open: {now:?}\nbefore: {before:?}\n{}", sockets(&now));
    }
}

/// The lines of /proc/net/unix about some sockets.
fn sockets(files: &[String]) -> String {
    let numbers: Vec<_> =
        files.iter().filter_map(|f| f.strip_prefix("socket:[")?.strip_suffix(']')).collect();
    let all = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let ours = all.lines().filter(|line| line.split(' ').any(|word| numbers.contains(&word)));
    ours.collect::<Vec<_>>().join("\n")
}

fn zombie(pid: i32) -> bool {
    conex::identity::proc_stat(pid).is_none_or(|s| s.0 == 'Z')
}

pub fn raw(
    client: &ttrpc::Client,
    service: &str,
    method: &str,
    payload: Vec<u8>,
) -> Result<Vec<u8>, Failed> {
    let mut request = ttrpc::Request::new();
    request.service = service.into();
    request.method = method.into();
    request.payload = payload;
    request.timeout_nano = Duration::from_secs(30).as_nanos() as i64;
    match client.request(request) {
        Ok(response) => Ok(response.payload),
        Err(ttrpc::Error::RpcStatus(s)) => Err(Failed { code: s.code.value(), message: s.message }),
        Err(e) => Err(Failed { code: -1, message: e.to_string() }),
    }
}

pub fn exec_request(id: &str, exec: &str, args: &[&str], stdio: &Stdio) -> ExecProcessRequest {
    let spec = serde_json::json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "terminal": stdio.terminal,
        "noNewPrivileges": true,
    });
    ExecProcessRequest {
        id: id.into(),
        exec_id: exec.into(),
        terminal: stdio.terminal,
        stdin: stdio.stdin.clone(),
        stdout: stdio.stdout.clone(),
        stderr: stdio.stderr.clone(),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: spec.to_string().into_bytes(),
        }),
    }
}

/// Paths or URIs of the three streams.
#[derive(Default, Clone)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

pub fn fifo(path: &Path) {
    let _ = std::fs::remove_file(path);
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// A FIFO with a reader that collects what comes.
pub struct Reader {
    pub path: PathBuf,
    thread: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Reader {
    pub fn new(path: PathBuf) -> Reader {
        fifo(&path);
        let from = path.clone();
        let thread = std::thread::spawn(move || {
            let mut out = Vec::new();
            let _ = std::fs::File::open(from).unwrap().read_to_end(&mut out);
            out
        });
        Reader { path, thread: Some(thread) }
    }

    pub fn uri(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Whether the end of the stream comes in time.
    pub fn ends(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20)
            && !self.thread.as_ref().is_some_and(|t| t.is_finished())
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.as_ref().is_some_and(|t| t.is_finished())
    }

    /// Everything up to the end of the stream.
    pub fn all(mut self) -> Vec<u8> {
        let thread = self.thread.take().unwrap();
        until(|| thread.is_finished(), "the end of the stream");
        thread.join().unwrap()
    }

    pub fn text(self) -> String {
        String::from_utf8_lossy(&self.all()).into_owned()
    }
}
