//! A program of the host's that is asked something: ps(1), newuidmap(1).

use std::io::Read;
use std::process::Command;

/// Runs it to its end: whether it succeeded, and what it wrote to standard output, or to both of its streams.
/// (`Command::output` keeps them apart, which is more code than both callers.)
pub fn ask(mut command: Command, both: bool) -> std::io::Result<(bool, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    if both {
        command.stderr(writer.try_clone()?);
    }
    command.stdout(writer);
    let child = command.spawn();
    // It has the other end of the pipe.
    drop(command);
    let mut child = child?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok((child.wait()?.success(), String::from_utf8_lossy(&bytes).into_owned()))
}
