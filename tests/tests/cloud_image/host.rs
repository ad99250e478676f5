//! A **simulated** host of EC2: QEMU with its tables, a metadata service, and a TPM that outlives the machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use constellation_attestation::tpm::Hash;
use constellation_tests::swtpm;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;

/// Firmware of Debian's package `ovmf`.
const FIRMWARE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"];
/// Size of the state disk, bytes.
const STATE: u64 = 64 << 20;
/// The TPM's answer to a control command comes at once.
const ANSWER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// A machine and what is around it; gone when dropped.
pub struct Host {
    folder: TempDir,
    machine: Child,
    tpm: Option<Child>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// Boots an image, whose disk is a SCSI disk; the empty state disk is an `NVMe` disk.
    pub fn start(image: &Path, user_data: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let port = serve(user_data, Arc::clone(&asked));
        // QEMU starts it for each connection to the service's address.
        let relay = format!("exec 3<>/dev/tcp/127.0.0.1/{port}\ncat <&3 &\ncat >&3\nkill $! 2>/dev/null\n");
        fs::write(at("relay"), relay).unwrap();
        fs::copy(FIRMWARE[1], at("vars.fd")).unwrap();
        fs::File::create(at("state.img")).unwrap().set_len(STATE).unwrap();
        let tpm = start_tpm(folder.path());
        let net = format!(
            "user,id=net,net=169.254.169.0/24,host=169.254.169.2,dhcpstart=169.254.169.15,restrict=on,\
             guestfwd=tcp:169.254.169.254:80-cmd:bash {}",
            at("relay").display()
        );
        let machine = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35,smm=off"])
            // QEMU 7.2 spoils the flags after cmpxchg16b without a lock, which a kernel of 6.12 doesn't survive.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2", "-m", "1024"])
            .args(["-smbios", "type=1,manufacturer=Amazon EC2", "-serial", "file:console.log"])
            .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={}", FIRMWARE[0])])
            .args(["-drive", "if=pflash,format=raw,unit=1,file=vars.fd"])
            .args(["-drive", &format!("if=none,id=image,format=raw,readonly=on,file={}", image.display())])
            .args(["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=image,bootindex=1"])
            .args(["-drive", "if=none,id=state,format=raw,cache=unsafe,file=state.img"])
            .args(["-device", "nvme,drive=state,serial=state"])
            .args(["-chardev", "socket,id=tpm,path=tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm"])
            .args(["-device", "tpm-crb,tpmdev=tpm0", "-device", "virtio-rng-pci"])
            .args(["-netdev", &net, "-device", "virtio-net-pci,netdev=net,romfile="])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, machine, tpm: Some(tpm), asked }
    }

    /// Waits until a line of the console holds a text.
    pub fn says(&mut self, text: &str, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.console().contains(text) {
            let gone = self.machine.try_wait().unwrap();
            assert!(gone.is_none() && Instant::now() < end, "no {text:?} ({gone:?}) in\n{}", self.console());
            thread::sleep(LOOK);
        }
    }

    fn console(&self) -> String {
        fs::read(self.folder.path().join("console.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// First lines of requests to the metadata service, without the protocol.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Ends the machine, and keeps its TPM as it was.
    pub fn cut_power(mut self) -> Tpm {
        self.machine.kill().unwrap();
        self.machine.wait().unwrap();
        let process = self.tpm.take().unwrap();
        Tpm::open(process, &self.folder.path().join("tpm.sock"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for process in [Some(&mut self.machine), self.tpm.as_mut()].into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A TPM with both banks, waiting for QEMU on `tpm.sock`.
fn start_tpm(folder: &Path) -> Child {
    let state = swtpm::manufacture(folder).unwrap();
    let tpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--ctrl", "type=unixio,path=tpm.sock", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .current_dir(folder)
        .spawn()
        .unwrap();
    let end = Instant::now() + ANSWER;
    while !folder.join("tpm.sock").exists() {
        assert!(Instant::now() < end, "swtpm opens no socket");
        thread::sleep(LOOK);
    }
    tpm
}

/// A metadata service as EC2's second version; its port.
fn serve(user_data: Vec<u8>, asked: Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &user_data, &asked);
        }
    });
    port
}

fn answer(mut stream: TcpStream, user_data: &[u8], asked: &Mutex<Vec<String>>) {
    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let request = head.first().and_then(|line| line.strip_suffix(" HTTP/1.1")).unwrap_or_default().to_owned();
    let has = |name: &str| head.iter().any(|line| line.to_ascii_lowercase().starts_with(name));
    let (status, body): (_, &[u8]) = match request.as_str() {
        "PUT /latest/api/token" if has("x-aws-ec2-metadata-token-ttl-seconds: ") => (200, b"a-token"),
        "GET /latest/user-data" if has("x-aws-ec2-metadata-token: a-token") => (200, user_data),
        _ => (401, b""),
    };
    asked.lock().unwrap().push(request);
    let start = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
    // A machine without power doesn't read.
    let _ = stream.write_all(&[start.as_bytes(), body].concat());
}

/// A TPM that lost its machine: nobody told it that the power is off, so its registers are as they were.
pub struct Tpm {
    process: Child,
    commands: UnixStream,
}

impl Tpm {
    /// Gives the emulator another end to take commands from (swtpm's `CMD_SET_DATAFD`, manual page `swtpm_ioctls`).
    fn open(process: Child, control: &Path) -> Self {
        const SET_DATAFD: u32 = 16;
        let control = UnixStream::connect(control).unwrap();
        control.set_read_timeout(Some(ANSWER)).unwrap();
        let (commands, theirs) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let request = SET_DATAFD.to_be_bytes();
        sendmsg(&control, &[IoSlice::new(&request)], &mut ancillary, SendFlags::empty()).unwrap();
        let mut result = [0; 4];
        (&control).read_exact(&mut result).unwrap();
        assert_eq!(result, [0; 4], "the TPM takes no other end");
        commands.set_read_timeout(Some(ANSWER)).unwrap();
        Self { process, commands }
    }

    /// Reads a register (TPM 2.0 Library, Part 3, `TPM2_PCR_Read`).
    pub fn register(&mut self, bank: Hash, index: u8) -> Vec<u8> {
        let mut slots = [0_u8; 3];
        slots[usize::from(index / 8)] = 1 << (index % 8);
        let mut command = vec![0x80, 0x01, 0, 0, 0, 20, 0, 0, 0x01, 0x7e, 0, 0, 0, 1];
        command.extend(bank.id().to_be_bytes());
        command.push(3);
        command.extend(slots);
        self.commands.write_all(&command).unwrap();
        // Header, update counter, the same selection, one digest with its length.
        let mut answer = vec![0; 10 + 4 + 10 + 4 + 2 + bank.size()];
        self.commands.read_exact(&mut answer).unwrap();
        assert_eq!(answer[6..10], [0; 4], "the TPM refuses");
        answer.split_off(30)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
