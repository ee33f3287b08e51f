//! What the CPUs, the controller and the outside agree on: who is to run, and why the VM ends.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Kicker, Partition, Stat};

use crate::Outcome;

/// What has been counted on one CPU.
pub type CpuStats = Vec<Stat>;

/// After a panic message, this long a silence of the console is its end.
const PANIC_SILENCE: Duration = Duration::from_secs(3);
/// A panic message is over after this long at the latest.
const PANIC_LIMIT: Duration = Duration::from_secs(30);

/// The agreement. The lock is held for moments only, never while a device's lock is taken.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    cpus: Vec<Cpu>,
    /// Why the VM ends; once set it stays.
    outcome: Option<Outcome>,
    /// All threads are gone.
    finished: bool,
    /// The machine is to be reset before anybody runs; so it starts.
    reset: bool,
    /// Whether the outside wants a pause.
    pause: bool,
    /// Whether a move wants one, whatever the outside wants meanwhile.
    held: bool,
    /// Whether devices and clock are at a standstill.
    paused: bool,
    panic: Option<GuestPanic>,
    /// The CPUs are on their way to another partition.
    moving: Option<Moving>,
}

/// A move of all CPUs to another partition: each gets ready there, and when all have, they go.
struct Moving {
    to: Arc<dyn Partition>,
    /// What came of getting ready.
    ready: Vec<Option<Result<(), String>>>,
    /// Whether they go; `None` while they get ready.
    go: Option<bool>,
    /// Who has gone, or given it up.
    settled: Vec<bool>,
}

#[derive(Default)]
struct Cpu {
    kicker: Option<Kicker>,
    /// It waits in [`Control::checkpoint`].
    parked: bool,
    /// Its thread has ended.
    gone: bool,
    /// It is to take on the state of power-on before it runs.
    power_on: bool,
    /// It is taking it on.
    starting: bool,
    stats: CpuStats,
    /// Counts how often `stats` was stored.
    stored: u64,
}

struct GuestPanic {
    text: String,
    since: Instant,
    last: Instant,
}

/// What a CPU is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Take on the state of power-on, and ask again.
    PowerOn,
    /// Get ready in the partition that [`Control::target`] gives, and tell by [`Control::ready`].
    GetReady,
    /// Go to where it is ready, or give that up; tell by [`Control::settled`].
    Settle(bool),
    /// Run.
    Run,
    /// End the thread.
    End,
}

/// What the controller is to do next, with all CPUs at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Reset the machine.
    Reset,
    /// Bring clock and devices to a standstill.
    Pause,
    /// Let them go on.
    Resume,
    /// Tidy up: the VM has ended.
    End,
}

impl State {
    /// Whether somebody wants a pause.
    fn rests(&self) -> bool {
        self.pause || self.held
    }

    fn must_park(&self) -> bool {
        self.reset || self.rests() || self.paused || self.moving.is_some()
    }

    fn kick(&self) {
        self.cpus.iter().filter_map(|cpu| cpu.kicker.as_ref()).for_each(Kicker::kick);
    }

    fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            // A panic explains what comes after it.
            let told = self.panic.take().map(|panic| Outcome::GuestPanic(panic.text));
            let explained = matches!(outcome, Outcome::Reset | Outcome::PowerOff | Outcome::TripleFault(_));
            self.outcome = Some(told.filter(|_| explained).unwrap_or(outcome));
        }
        self.kick();
    }
}

impl Control {
    pub(crate) fn new(cpus: u32) -> Self {
        let state = State {
            cpus: (0..cpus).map(|_| Cpu::default()).collect(),
            outcome: None,
            finished: false,
            reset: true,
            pause: false,
            held: false,
            paused: false,
            panic: None,
            moving: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, what: impl FnOnce(&mut State)) {
        what(&mut self.lock());
        self.changed.notify_all();
    }

    /// Ends the VM; the first reason counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.change(|s| s.end(outcome));
    }

    /// Asks for a reset. One that the guest asks for after its kernel has panicked ends the VM.
    pub(crate) fn reset_by_guest(&self) {
        self.change(|s| {
            if s.panic.is_some() {
                s.end(Outcome::Reset);
            } else {
                s.reset = true;
                s.kick();
            }
        });
    }

    /// Asks for a reset.
    pub(crate) fn reset(&self) {
        self.change(|s| {
            s.panic = None;
            s.reset = true;
            s.kick();
        });
    }

    /// Asks for a pause or its end, and waits for it.
    pub(crate) fn set_pause(&self, pause: bool) {
        self.change(|s| {
            s.pause = pause;
            s.kick();
        });
        let state = self.lock();
        // Whoever changes the wish meanwhile ends the wait too.
        let waits = |s: &mut State| s.pause == pause && s.paused != pause && s.outcome.is_none();
        drop(self.changed.wait_while(state, waits));
    }

    /// Holds the VM for a move, or lets it go. Waits until it stands still, or runs again if nobody else wants a pause.
    pub(crate) fn set_held(&self, held: bool) {
        self.change(|s| {
            s.held = held;
            s.kick();
        });
        let state = self.lock();
        let waits = |s: &mut State| s.paused != s.rests() && s.outcome.is_none();
        drop(self.changed.wait_while(state, waits));
    }

    /// The guest's kernel says that it has panicked.
    pub(crate) fn guest_panicked(&self, text: String) {
        let now = Instant::now();
        self.change(|s| s.panic = Some(GuestPanic { text, since: now, last: now }));
    }

    /// It says more.
    pub(crate) fn guest_panic_goes_on(&self) {
        if let Some(panic) = &mut self.lock().panic {
            panic.last = Instant::now();
        }
    }

    /// It has said all.
    pub(crate) fn guest_panic_is_over(&self) {
        self.change(|s| {
            if let Some(panic) = s.panic.take() {
                s.end(Outcome::GuestPanic(panic.text));
            }
        });
    }

    /// Why the VM ends, if it does.
    #[cfg(test)]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.lock().outcome.clone()
    }

    /// Waits until all threads are gone, and tells why.
    pub(crate) fn wait(&self) -> Outcome {
        let state = self.lock();
        let state = self.changed.wait_while(state, |s| !s.finished).unwrap_or_else(PoisonError::into_inner);
        state.outcome.clone().unwrap_or(Outcome::Stopped)
    }

    /// What the CPUs have counted: stored anew by those that run.
    pub(crate) fn stats(&self) -> Vec<CpuStats> {
        const PATIENCE: Duration = Duration::from_millis(500);
        let state = self.lock();
        let before: Vec<_> = state.cpus.iter().map(|cpu| cpu.stored).collect();
        state.kick();
        let stale = |s: &mut State| {
            let mut pairs = s.cpus.iter().zip(&before);
            pairs.any(|(cpu, before)| !cpu.gone && !cpu.parked && cpu.stored == *before)
        };
        let waited = self.changed.wait_timeout_while(state, PATIENCE, stale);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.cpus.iter().map(|cpu| cpu.stats.clone()).collect()
    }

    // What the threads of the CPUs call.

    pub(crate) fn register(&self, cpu: u32, kicker: Kicker) {
        self.change(|s| {
            if let Some(cpu) = s.cpus.get_mut(cpu as usize) {
                cpu.kicker = Some(kicker);
            }
        });
    }

    /// Tells a CPU what to do; blocks while it must not run.
    pub(crate) fn checkpoint(&self, cpu: u32, stats: CpuStats) -> Next {
        let index = cpu as usize;
        let mut state = self.lock();
        if let Some(cpu) = state.cpus.get_mut(index) {
            cpu.stats = stats;
            cpu.stored += 1;
            if std::mem::take(&mut cpu.starting) {
                self.changed.notify_all();
            }
        }
        loop {
            if state.outcome.is_some() {
                return Next::End;
            }
            let (must_park, moves) = (state.must_park(), state.moving.is_some());
            let Some(cpu) = state.cpus.get_mut(index) else { return Next::End };
            if cpu.parked != must_park {
                cpu.parked = must_park;
                self.changed.notify_all();
            }
            // When the CPUs move, what goes is what a reset has left, not what was before it.
            if (moves || !must_park) && std::mem::take(&mut cpu.power_on) {
                cpu.starting = true;
                return Next::PowerOn;
            }
            if must_park && let Some(moving) = &state.moving {
                match moving.go {
                    None if moving.ready.get(index).is_some_and(Option::is_none) => return Next::GetReady,
                    Some(go) if moving.settled.get(index) == Some(&false) => return Next::Settle(go),
                    _ => {}
                }
            }
            if !must_park {
                // What one CPU sends to another would be lost while that one is taking on its state.
                if !state.cpus.iter().any(|cpu| !cpu.gone && (cpu.power_on || cpu.starting)) {
                    return Next::Run;
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Where the CPUs go.
    pub(crate) fn target(&self) -> Option<Arc<dyn Partition>> {
        self.lock().moving.as_ref().map(|moving| Arc::clone(&moving.to))
    }

    /// A CPU is ready to go, or cannot.
    pub(crate) fn ready(&self, cpu: u32, result: Result<(), String>) {
        self.change(|s| {
            if let Some(place) = s.moving.as_mut().and_then(|moving| moving.ready.get_mut(cpu as usize)) {
                *place = Some(result);
            }
        });
    }

    /// A CPU has gone, or given it up.
    pub(crate) fn settled(&self, cpu: u32) {
        self.change(|s| {
            if let Some(place) = s.moving.as_mut().and_then(|moving| moving.settled.get_mut(cpu as usize)) {
                *place = true;
            }
        });
    }

    /// Has all CPUs of a paused VM go to partition `to`, or none: then the error says why.
    pub(crate) fn move_cpus(&self, to: Arc<dyn Partition>) -> Result<(), String> {
        const ENDED: &str = "the VM has ended";
        let resetting = |s: &mut State| s.outcome.is_none() && s.reset;
        let state = self.changed.wait_while(self.lock(), resetting);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let count = state.cpus.len();
        if state.outcome.is_some() || !state.paused || state.moving.is_some() {
            return Err("the VM is not at rest".into());
        }
        state.moving = Some(Moving { to, ready: vec![None; count], go: None, settled: vec![false; count] });
        self.changed.notify_all();
        let getting_ready = |s: &mut State| {
            s.outcome.is_none() && s.moving.as_ref().is_some_and(|moving| moving.ready.iter().any(Option::is_none))
        };
        state = self.changed.wait_while(state, getting_ready).unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        if let Some(moving) = &mut state.moving {
            let failed = moving.ready.iter_mut().find_map(|ready| ready.take_if(|ready| ready.is_err()));
            result = failed.unwrap_or(Ok(()));
            moving.go = Some(result.is_ok());
        }
        self.changed.notify_all();
        let settling = |s: &mut State| {
            s.outcome.is_none() && s.moving.as_ref().is_some_and(|moving| moving.settled.contains(&false))
        };
        state = self.changed.wait_while(state, settling).unwrap_or_else(PoisonError::into_inner);
        state.moving = None;
        self.changed.notify_all();
        if state.outcome.is_some() { Err(ENDED.into()) } else { result }
    }

    /// The thread of a CPU has ended.
    pub(crate) fn gone(&self, cpu: u32) {
        self.change(|s| {
            if let Some(cpu) = s.cpus.get_mut(cpu as usize) {
                cpu.gone = true;
                cpu.kicker = None;
            }
        });
    }

    // What the controller calls.

    /// Whether devices and clock are at a standstill.
    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// Waits for something to do. All but [`Job::End`] come when all CPUs are at rest.
    pub(crate) fn next_job(&self) -> Job {
        let mut state = self.lock();
        loop {
            if state.outcome.is_some() {
                return Job::End;
            }
            let at_rest = state.cpus.iter().all(|cpu| cpu.parked) && state.moving.is_none();
            match (state.reset, state.rests(), state.paused) {
                (true, _, _) if at_rest => return Job::Reset,
                (false, true, false) if at_rest => return Job::Pause,
                (false, false, true) if at_rest => return Job::Resume,
                _ => {}
            }
            let left = state.panic.as_ref().map(|panic| {
                let end = (panic.last + PANIC_SILENCE).min(panic.since + PANIC_LIMIT);
                end.saturating_duration_since(Instant::now())
            });
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    if let Some(panic) = state.panic.take() {
                        state.end(Outcome::GuestPanic(panic.text));
                    }
                    continue;
                }
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// The controller has done a job.
    pub(crate) fn done(&self, job: Job) {
        self.change(|s| match job {
            Job::Reset => {
                s.reset = false;
                s.cpus.iter_mut().for_each(|cpu| cpu.power_on = true);
            }
            Job::Pause => s.paused = true,
            Job::Resume => s.paused = false,
            Job::End => s.finished = true,
        });
    }

    #[cfg(test)]
    pub(crate) fn panic_text(&self) -> Option<String> {
        self.lock().panic.as_ref().map(|panic| panic.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn cpus_rest_while_the_controller_works() {
        let control = Arc::new(Control::new(3));
        let running = Arc::new(AtomicU32::new(0));
        let ran = Arc::new(AtomicU32::new(0));
        let cpus: Vec<_> = (0..3)
            .map(|id| {
                let (control, running, ran) = (Arc::clone(&control), Arc::clone(&running), Arc::clone(&ran));
                std::thread::spawn(move || {
                    let mut power_ons = 0;
                    loop {
                        match control.checkpoint(id, Vec::new()) {
                            Next::End => break,
                            Next::PowerOn => power_ons += 1,
                            Next::GetReady | Next::Settle(_) => unreachable!("nobody moves"),
                            Next::Run => {
                                running.fetch_add(1, Ordering::SeqCst);
                                ran.fetch_or(1 << id, Ordering::SeqCst);
                                std::thread::yield_now();
                                running.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                    }
                    control.gone(id);
                    power_ons
                })
            })
            .collect();
        let controller = {
            let (control, running) = (Arc::clone(&control), Arc::clone(&running));
            std::thread::spawn(move || {
                let mut jobs = Vec::new();
                loop {
                    let job = control.next_job();
                    jobs.push(job);
                    if job == Job::End {
                        break;
                    }
                    if job != Job::Resume {
                        assert_eq!(running.load(Ordering::SeqCst), 0);
                    }
                    control.done(job);
                }
                jobs
            })
        };
        control.set_pause(true);
        assert_eq!(running.load(Ordering::SeqCst), 0);
        control.reset();
        control.set_pause(false);
        while ran.load(Ordering::SeqCst) != 0b111 {
            std::thread::yield_now();
        }
        control.end(Outcome::PowerOff);
        control.end(Outcome::Stopped);
        let power_ons: Vec<u32> = cpus.into_iter().map(|cpu| cpu.join().unwrap()).collect();
        let jobs = controller.join().unwrap();
        let resets = jobs.iter().filter(|job| **job == Job::Reset).count();
        assert!(resets >= 1 && jobs.contains(&Job::Pause) && jobs.contains(&Job::Resume));
        assert!(power_ons.iter().all(|n| *n >= 1 && *n as usize <= resets));
        control.done(Job::End);
        assert_eq!(control.wait(), Outcome::PowerOff);
    }

    #[test]
    fn a_reset_after_a_panic_is_the_panic() {
        let control = Control::new(1);
        control.guest_panicked("oh".into());
        control.reset_by_guest();
        assert_eq!(control.outcome(), Some(Outcome::GuestPanic("oh".into())));
    }
}
