//! Keeps one operator running, whatever happens to it.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::proxy::Process;
use crate::operator::Operator;

/// The operator's log, in its folder.
const LOG: &str = "operator.log";
/// The last words of an operator that could not renew its lease.
const GAVE_UP: &str = "leadership is lost";

/// One operator after the other, each with the same arguments.
pub(super) struct Keeper {
    dir: PathBuf,
    program: &'static str,
    environment: Vec<String>,
    arguments: Vec<String>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    kubeconfig: String,
    operator: Option<Operator>,
    kills: u32,
    failure: Option<String>,
    /// Bytes of the log when it was started last.
    begun: usize,
    /// Bytes of the log when things began to go wrong.
    armed: usize,
}

impl Keeper {
    /// Of a program with its environment and arguments; it runs in this folder.
    pub fn new(dir: PathBuf, program: &'static str, environment: Vec<String>, arguments: Vec<String>) -> Self {
        Self { dir, program, environment, arguments, running: Mutex::default() }
    }

    /// Starts the first one.
    pub fn begin(&self, kubeconfig: String) {
        // What another run left in the folder is not this one's.
        let _ = fs::remove_file(self.dir.join(LOG));
        let mut running = self.running();
        running.kubeconfig = kubeconfig;
        self.start(&mut running);
    }

    /// No more of it.
    pub fn end(&self) {
        self.running().operator = None;
    }

    /// How often it was killed.
    pub fn kills(&self) -> u32 {
        self.running().kills
    }

    /// Lets a suspended one go on.
    pub fn resume(&self) {
        self.running().operator.iter().for_each(Operator::resume);
    }

    /// Whether one runs.
    pub fn alive(&self) -> bool {
        self.running().operator.as_mut().is_some_and(Operator::alive)
    }

    /// Why none runs. Where one ended because it may not lead any more, another is started, as a kubelet would.
    pub fn trouble(&self) -> Option<String> {
        let mut running = self.running();
        if !running.operator.as_mut().is_some_and(Operator::alive) && running.failure.is_none() {
            if !self.log().get(running.begun..).is_some_and(|words| words.contains(GAVE_UP)) {
                return Some("it ended by itself".to_owned());
            }
            self.start(&mut running);
        }
        running.failure.clone()
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        self.running().operator.as_ref().map(Operator::tail).unwrap_or_default()
    }

    /// From now on the log is of interest.
    pub fn arm(&self) {
        let mut running = self.running();
        running.armed = self.log().len();
    }

    /// What was logged since then.
    pub fn armed_log(&self) -> String {
        let armed = self.running().armed;
        self.log().split_off(armed)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join(LOG)).unwrap_or_default()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, running: &mut Running) {
        running.begun = self.log().len();
        let through: Vec<_> = std::iter::once("env").chain(self.environment.iter().map(String::as_str)).collect();
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        match Operator::start_program(self.program, &self.dir, &running.kubeconfig, &through, &arguments) {
            Ok(operator) => running.operator = Some(operator),
            Err(error) => running.failure = Some(format!("{error:#}")),
        }
    }
}

impl Process for Keeper {
    /// Nobody who asks whether it runs sees the moment between. Where none runs the lane is over.
    fn kill(&self) {
        let mut running = self.running();
        if let Some(operator) = running.operator.take() {
            running.kills += 1;
            operator.kill();
            self.start(&mut running);
        }
    }

    fn suspend(&self) {
        self.running().operator.iter().for_each(Operator::pause);
    }
}
