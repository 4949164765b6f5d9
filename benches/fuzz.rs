//! Many inputs for the script host, in processes of their own, so that one that ends its process is found:
//! `cargo bench --bench fuzz -- --inputs 1000000 --seed 1 --save findings`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/fuzz/mod.rs"]
mod fuzz;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fuzz::judge::{Judge, typed, watch_panics};
use fuzz::{Corpus, Input, Way};

/// The memory budget needs to know what is held.
#[global_allocator]
static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Inputs of one process.
const CHUNK: u64 = 20_000;

/// How long an input may say nothing.
const HANG: Duration = Duration::from_secs(60);

struct Flags {
    inputs: u64,
    first: u64,
    seed: u64,
    save: PathBuf,
    child: Option<(u64, u64)>,
    one: Option<PathBuf>,
    print: Option<u64>,
}

fn flags() -> Flags {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    let number = |name: &str, default: u64| value(name).map_or(default, |v| v.parse().expect("a number"));
    Flags {
        inputs: number("--inputs", 100_000),
        first: number("--first", 0),
        seed: number("--seed", 1),
        save: value("--save").unwrap_or_else(|| "fuzz-findings".into()).into(),
        child: value("--child").map(|_| (number("--child", 0), number("--to", 0))),
        one: value("--one").map(Into::into),
        print: value("--print").map(|_| number("--print", 0)),
    }
}

fn main() {
    let flags = flags();
    if let Some(file) = &flags.one {
        let text = std::fs::read_to_string(file).unwrap();
        return serve(
            text.split("\n// ---\n")
                .enumerate()
                .map(|(i, cell)| (i as u64, Input { text: cell.to_string(), way: Way::Cell })),
        );
    }
    if let Some(n) = flags.print {
        let input = fuzz::input(&Corpus::gather(), flags.seed, n);
        println!("{}\n// {:?}", input.text, input.way);
        return;
    }
    if let Some((from, to)) = flags.child {
        let corpus = Corpus::gather();
        return serve((from..to).map(|i| (i, fuzz::input(&corpus, flags.seed, i))));
    }
    lead(&flags);
}

/// Runs inputs, one line on stdout before each, one for each fault.
fn serve(inputs: impl Iterator<Item = (u64, Input)>) {
    scumble::script::set_memory_probe(|| MEMORY.allocated() as u64);
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    watch_panics();
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    let (send, receive) = mpsc::channel::<Input>();
    let (answer, answers) = mpsc::channel();
    let path = folder.path().to_path_buf();
    let evaluation = std::thread::Builder::new()
        .stack_size(scumble::script::thread::STACK)
        .spawn(move || {
            let mut judge = Judge::new(&path);
            for input in receive {
                let _ = answer.send(judge.judge(&input));
            }
            judge.tally
        })
        .unwrap();
    let mut snapshot = scumble::script::Snapshot::default();
    for (number, input) in inputs {
        println!("{number}");
        if let Err(why) = typed(&input.text, &snapshot) {
            println!("! {}", why.replace('\n', "\n! "));
        }
        send.send(input).unwrap();
        match answers.recv() {
            Ok(Ok(now)) => snapshot = now,
            Ok(Err(why)) => println!("! {}", why.replace('\n', "\n! ")),
            Err(_) => println!("! the evaluation thread ended"),
        }
    }
    drop(send);
    if let Ok([good, failed, no_script, stopped]) = evaluation.join() {
        println!("= {good} {failed} {no_script} {stopped}");
    }
    println!("end");
}

/// What one child said.
struct Heard {
    last: u64,
    faults: Vec<(u64, String)>,
    tally: Vec<u64>,
    ended: bool,
}

fn listen(command: &mut Command) -> Heard {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (send, lines) = mpsc::channel();
    let out = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut heard = Heard { last: 0, faults: Vec::new(), tally: vec![0; 4], ended: false };
    loop {
        match lines.recv_timeout(HANG) {
            Ok(line) if line == "end" => heard.ended = true,
            Ok(line) if line.starts_with("= ") => {
                heard.tally = line[2..].split(' ').map(|n| n.parse().unwrap_or(0)).collect();
            }
            Ok(line) => match line.strip_prefix("! ") {
                Some(why) => match heard.faults.last_mut() {
                    Some((n, text)) if *n == heard.last => text.push_str(&format!("\n{why}")),
                    _ => heard.faults.push((heard.last, why.to_string())),
                },
                None => heard.last = line.parse().unwrap_or(heard.last),
            },
            Err(mpsc::RecvTimeoutError::Timeout) => {
                heard.faults.push((heard.last, "it hangs".into()));
                let _ = child.kill();
                break;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                if !heard.ended {
                    heard.faults.push((heard.last, "the process ended".into()));
                }
                break;
            }
        }
    }
    let _ = child.wait();
    heard
}

fn lead(flags: &Flags) {
    let (me, corpus, start) = (std::env::current_exe().unwrap(), Corpus::gather(), Instant::now());
    let (mut next, end, mut faults) = (flags.first, flags.first + flags.inputs, 0);
    let mut tally = [0; 4];
    while next < end {
        let to = (next + CHUNK).min(end);
        let mut command = Command::new(&me);
        command.args([
            "--child",
            &next.to_string(),
            "--to",
            &to.to_string(),
            "--seed",
            &flags.seed.to_string(),
        ]);
        let heard = listen(&mut command);
        for (number, why) in &heard.faults {
            faults += 1;
            let input = fuzz::input(&corpus, flags.seed, *number);
            save(flags, &me, *number, &input, why);
        }
        next = if heard.ended { to } else { heard.last + 1 };
        tally.iter_mut().zip(&heard.tally).for_each(|(all, n)| *all += n);
        let [good, failed, no_script, stopped] = tally;
        println!(
            "{next} inputs, {:.0} s, {faults} faults ({good} gave a value, {failed} failed, {no_script} were no scripts, \
             {stopped} were stopped)",
            start.elapsed().as_secs_f64()
        );
        std::io::stdout().flush().unwrap();
    }
}

/// Writes an input down, smaller if a smaller one does the same.
fn save(flags: &Flags, me: &Path, number: u64, input: &Input, why: &str) {
    std::fs::create_dir_all(&flags.save).unwrap();
    let name = format!("{}-{number}", flags.seed);
    println!(
        "fault {name}: {}",
        why.lines().next().unwrap_or_default().chars().take(150).collect::<String>()
    );
    let scratch = flags.save.join(format!("{name}.try"));
    let fails = |text: &str| {
        std::fs::write(&scratch, text).unwrap();
        !listen(Command::new(me).args(["--one", &scratch.canonicalize().unwrap().display().to_string()]))
            .faults
            .is_empty()
    };
    let mut lines: Vec<String> = input.text.lines().map(str::to_string).collect();
    // A hang costs its time in every try: such an input is kept as it is.
    if why != "it hangs" && input.way == Way::Cell && fails(&input.text) {
        let mut i = 0;
        while i < lines.len() {
            let line = lines.remove(i);
            if !fails(&lines.join("\n")) {
                lines.insert(i, line);
                i += 1;
            }
        }
    }
    let _ = std::fs::remove_file(&scratch);
    std::fs::write(flags.save.join(format!("{name}.rhai")), lines.join("\n")).unwrap();
    std::fs::write(flags.save.join(format!("{name}.txt")), format!("{:?}\n{why}\n", input.way)).unwrap();
}
