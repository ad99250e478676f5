//! The user data of a node: its launch configuration and hints, from a cloud's metadata service or, on the operator's own
//! host, from QEMU's firmware-configuration device.
//!
//! Nothing of it is trusted: the launch configuration is measured before it is used, and whoever a hint names must prove
//! who it is. It is bounded, and a service has a time limit.

use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constellation_attestation::{
    delivery::{self, Hints, MAX_BYTES},
    protocol::LaunchConfig,
};

use crate::{
    error::Error,
    metadata::{Answer, Metadata},
    platform::Platform,
};

/// Where the firmware-configuration device shows a local machine's.
pub const LOCAL: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/constellation/user-data/raw";
/// How long a token of EC2's service lives, seconds: it is used at once.
const TOKEN_SECONDS: &str = "60";
/// Google's name for the node's user data; the operator writes it.
const ATTRIBUTE: &str = "/computeMetadata/v1/instance/attributes/constellation-launch-config";

/// Who delivers.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where the machine runs.
    pub platform: Platform,
    /// The cloud's service.
    pub service: Metadata,
    /// The file of a local machine.
    pub local: PathBuf,
}

impl Source {
    /// The launch configuration: the bytes to measure, and what they say.
    ///
    /// # Errors
    /// When there is none, or what is there is none of ours.
    pub async fn launch_config(&self) -> Result<(Vec<u8>, LaunchConfig), Error> {
        let bytes = self.read().await?;
        let (launch, _) = delivery::split(&bytes);
        let parsed = serde_json::from_slice(launch).map_err(|e| Error::Launch(format!("can't be read: {e}")))?;
        Ok((launch.to_vec(), parsed))
    }

    /// Where verifiers may be.
    ///
    /// # Errors
    /// When there is no user data.
    pub async fn hints(&self) -> Result<Hints, Error> {
        Ok(delivery::split(&self.read().await?).1)
    }

    /// The node's own address, where nothing else says it: the one from which a cloud's service is reached. Connecting a
    /// datagram socket chooses it, and sends nothing.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        if self.platform == Platform::Local {
            return None;
        }
        let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
        socket.connect(&self.service.authority).ok()?;
        socket.local_addr().ok().map(|own| own.ip())
    }

    async fn read(&self) -> Result<Vec<u8>, Error> {
        let bytes = match self.platform {
            Platform::Aws => self.aws().await?,
            Platform::Azure => decoded(&self.azure().await?)?,
            Platform::Gcp => decoded(&self.gcp().await?)?,
            Platform::Local => file(&self.local)?,
        };
        if bytes.len() > MAX_BYTES {
            return Err(Error::Launch(format!("has {} bytes, more than {MAX_BYTES}", bytes.len())));
        }
        Ok(bytes)
    }

    /// EC2, "Use the Instance Metadata Service", version 2: a token first. User data comes as it was before base64.
    async fn aws(&self) -> Result<Vec<u8>, Error> {
        let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS)];
        let token = self.service.ask("PUT", "/latest/api/token", &ttl).await?.body;
        let token = String::from_utf8(token).map_err(|_| Error::Launch("needs a token, which is no text".into()))?;
        Ok(self.service.ask("GET", "/latest/user-data", &[("x-aws-ec2-metadata-token", &token)]).await?.body)
    }

    /// Azure, "Instance Metadata Service", "Get user data": base64, as it was given.
    async fn azure(&self) -> Result<Vec<u8>, Error> {
        let path = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text";
        Ok(self.service.ask("GET", path, &[("metadata", "true")]).await?.body)
    }

    /// Compute Engine, "View and query VM metadata": base64, because we wrote it so; the header tells the service from
    /// a proxy that took its place.
    async fn gcp(&self) -> Result<Vec<u8>, Error> {
        let Answer { flavor, body } = self.service.ask("GET", ATTRIBUTE, &[("metadata-flavor", "Google")]).await?;
        if flavor.as_deref() != Some("Google") {
            return Err(Error::Launch("came from something that is not Google's metadata server".into()));
        }
        Ok(body)
    }
}

/// As much of a file as tells that it is too long.
fn file(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::File(format!("reading {}", path.display()), e))?;
    Ok(bytes)
}

fn decoded(text: &[u8]) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text.trim_ascii()).map_err(|_| Error::Launch("is not base64".into()))
}

#[cfg(test)]
pub(crate) mod fake {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Answers the head of a request with status, headers and body.
    pub(crate) type Service = fn(&str) -> (u16, &'static str, Vec<u8>);

    /// A service that answers each request by a function of its head, and remembers the heads.
    pub(crate) async fn service(answer: Service) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (authority, heads) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                // Bytes that nobody read would make the kernel end the connection with an error.
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
                stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
                let (status, headers, body) = answer(&head);
                let start = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n", body.len());
                kept.lock().unwrap().push(head);
                stream.write_all(&[start.as_bytes(), &body].concat()).await.unwrap();
            }
        });
        (authority, heads)
    }
}

#[cfg(test)]
mod tests {
    use constellation_attestation::protocol::Role;

    use super::{
        fake::{Service, service},
        *,
    };

    fn of(platform: Platform, authority: String) -> Source {
        Source { platform, service: Metadata { authority }, local: LOCAL.into() }
    }

    fn launch() -> LaunchConfig {
        LaunchConfig {
            cluster_uid: "c".into(),
            node_uid: "n".into(),
            node_name: "name".into(),
            role: Role::Worker,
            owner_public_key: "AA==".into(),
        }
    }

    fn user_data() -> Vec<u8> {
        delivery::join(&launch().to_bytes(), &Hints { verifiers: vec!["192.0.2.1:9001".into()] })
    }

    fn aws(head: &str) -> (u16, &'static str, Vec<u8>) {
        if head.starts_with("put /latest/api/token ") && head.contains("token-ttl-seconds: 60\r\n") {
            (200, "", b"T1==".to_vec())
        } else if head.starts_with("get /latest/user-data ") && head.contains("metadata-token: t1==\r\n") {
            (200, "", user_data())
        } else {
            (401, "", Vec::new())
        }
    }

    fn azure(head: &str) -> (u16, &'static str, Vec<u8>) {
        let right = head.starts_with("get /metadata/instance/compute/userdata?api-version=2021-01-01&format=text ");
        if right && head.contains("metadata: true\r\n") {
            (200, "", STANDARD.encode(user_data()).into_bytes())
        } else {
            (400, "", Vec::new())
        }
    }

    fn gcp(head: &str) -> (u16, &'static str, Vec<u8>) {
        let right = head.starts_with(&format!("get {} ", ATTRIBUTE.to_ascii_lowercase()));
        if right && head.contains("metadata-flavor: google\r\n") {
            (200, "Metadata-Flavor: Google\r\n", STANDARD.encode(user_data()).into_bytes())
        } else {
            (403, "", Vec::new())
        }
    }

    #[tokio::test]
    async fn every_cloud_gives_the_same_launch_configuration_byte_for_byte() {
        let clouds: [(_, Service); 3] = [(Platform::Aws, aws), (Platform::Azure, azure), (Platform::Gcp, gcp)];
        for (cloud, answer) in clouds {
            let (authority, heads) = service(answer).await;
            let source = of(cloud, authority);
            assert_eq!(source.launch_config().await.unwrap(), (launch().to_bytes(), launch()), "{cloud:?}");
            assert_eq!(source.hints().await.unwrap().verifiers, ["192.0.2.1:9001"], "{cloud:?}");
            assert_eq!(source.address(), Some([127, 0, 0, 1].into()));
            assert!(heads.lock().unwrap().iter().all(|head| head.contains("\r\nhost: 127.0.0.1:")));
        }
    }

    #[tokio::test]
    async fn what_is_no_user_data_of_ours_is_refused() {
        let cases: [(_, Service, &str); 6] = [
            (Platform::Aws, |_| (404, "", Vec::new()), "404"),
            (Platform::Aws, |head| if head.starts_with("put") { aws(head) } else { (401, "", Vec::new()) }, "401"),
            (Platform::Azure, |_| (200, "", b"not base64".to_vec()), "not base64"),
            (Platform::Azure, |_| (200, "", STANDARD.encode(vec![b' '; MAX_BYTES + 1]).into_bytes()), "more than"),
            (Platform::Gcp, |head| (200, "", gcp(head).2), "not Google's"),
            (
                Platform::Gcp,
                |_| (200, "Metadata-Flavor: Google\r\n", STANDARD.encode("{}").into_bytes()),
                "can't be read",
            ),
        ];
        for (cloud, answer, why) in cases {
            let (authority, _) = service(answer).await;
            let refused = of(cloud, authority).launch_config().await.unwrap_err().to_string();
            assert!(refused.contains(why), "{cloud:?}: {refused}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let (authority, _) = service(|_| (200, "", vec![b'a'; 100 * 1024])).await;
        let refused = of(Platform::Azure, authority).launch_config().await.unwrap_err().to_string();
        assert!(refused.contains("limit"), "{refused}");
    }

    #[tokio::test]
    async fn a_local_machine_reads_its_file_each_time_and_no_more_of_it_than_there_may_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = Source { local: file.path().to_owned(), ..of(Platform::Local, "192.0.2.1:80".into()) };
        std::fs::write(file.path(), user_data()).unwrap();
        assert_eq!(source.launch_config().await.unwrap(), (launch().to_bytes(), launch()));
        assert_eq!(source.hints().await.unwrap().verifiers, ["192.0.2.1:9001"]);
        assert_eq!(source.address(), None);
        std::fs::write(file.path(), delivery::join(&launch().to_bytes(), &Hints::default())).unwrap();
        assert_eq!(source.hints().await.unwrap(), Hints::default());
        std::fs::write(file.path(), vec![b' '; MAX_BYTES]).unwrap();
        assert!(source.hints().await.is_ok());
        std::fs::write(file.path(), vec![b' '; MAX_BYTES + 1]).unwrap();
        assert!(source.hints().await.unwrap_err().to_string().contains("more than"));
        std::fs::remove_file(file.path()).unwrap();
        assert!(source.launch_config().await.is_err());
    }
}
