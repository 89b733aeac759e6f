//! `modelcache-bench-cable`: one long cable. It makes two virtual ends, says `up`, and carries packets between them until
//! it is killed or its standard input ends.

use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use modelcache_bench::cable::Line;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

#[derive(Debug, Parser)]
struct Arguments {
    /// Names of its ends.
    #[arg(long, num_args = 2)]
    ends: Vec<String>,
    /// How long it holds each packet back, in microseconds.
    #[arg(long)]
    delay_us: u64,
    /// Share of the packets that it loses, 0 to 1.
    #[arg(long)]
    loss: f64,
    /// Which ones.
    #[arg(long)]
    seed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let ends = arguments.ends.iter().map(|name| {
        let device = DeviceBuilder::new().name(name).layer(Layer::L2);
        Ok(Arc::new(device.build_sync()?))
    });
    let ends: Vec<Arc<SyncDevice>> = ends.collect::<Result<_>>()?;
    for (way, seed) in [(0, arguments.seed), (1, !arguments.seed)] {
        let line = Line {
            delay: Duration::from_micros(arguments.delay_us),
            loss: arguments.loss,
            seed,
        };
        let mut pair = ends.clone();
        if way == 1 {
            pair.reverse();
        }
        std::thread::spawn(move || {
            let [from, to] = pair.as_slice() else { return };
            let error = line.carry(|buffer| from.recv(buffer), |packet| to.send(packet));
            eprintln!("error: {error:#}");
            exit(1);
        });
    }
    println!("up");
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}
