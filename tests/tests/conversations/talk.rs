//! A conversation of the operator with a machine, whose turns are side effects: before or after each the operator dies.

use std::sync::Arc;

use anyhow::Result;
use constellation_tests::faults::{
    call::Call,
    plan::{Fate, Plan},
    proxy::Process,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UnixStream},
};

/// What is done to a machine, as a plan wants to have it.
pub fn deed() -> Call {
    Call { verb: "create", resource: "machines".to_owned(), ..Call::default() }
}

/// Relays until either side ends. A turn begins when the operator speaks after the machine did; it has taken effect when
/// the machine answers, and of that answer an operator that dies then hears nothing.
pub async fn relay(
    mut operator: BufReader<UnixStream>,
    mut machine: TcpStream,
    words: &str,
    plan: &Plan,
    process: &Arc<dyn Process>,
) -> Result<()> {
    let (mut there, mut back) = ([0; 4096], [0; 4096]);
    let (mut turn, mut operators, mut dies) = (0, false, false);
    loop {
        let (length, operator_speaks) = tokio::select! {
            length = operator.read(&mut there) => (length?, true),
            length = machine.read(&mut back) => (length?, false),
        };
        if length == 0 {
            return Ok(());
        }
        if operator_speaks {
            if !operators {
                turn += 1;
                let fate = plan.fate(&deed(), &format!("{words}, turn {turn}"));
                if fate == Fate::KillBefore {
                    process.kill();
                    return Ok(());
                }
                dies = fate == Fate::KillAfter;
            }
            machine.write_all(&there[..length]).await?;
        } else {
            if dies {
                process.kill();
                return Ok(());
            }
            operator.write_all(&back[..length]).await?;
        }
        operators = operator_speaks;
    }
}
