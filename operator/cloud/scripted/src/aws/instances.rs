//! Instances: launched once per client token, listed in pages, fading after their end.

use std::collections::BTreeMap;

use super::{
    model::Tree,
    objects::{Kind, Object, items},
    world::{Reply, World},
};

impl World {
    pub(super) fn run(&mut self, request: &Tree, tags: BTreeMap<String, String>) -> Reply {
        let token = request.text("ClientToken").unwrap().to_owned();
        let reply = |object: &Object| Ok(format!("<instancesSet>{}</instancesSet>", items([object.xml()])));
        if let Some(known) = self.of(Kind::Instance).into_iter().find(|one| one.get("token") == token) {
            return match known.get("instance-state-name") {
                "terminated" | "shutting-down" => Err((400, "IdempotentInstanceTerminated")),
                _ => reply(known),
            };
        }
        let interface = request.at("NetworkInterface.1").unwrap();
        let (subnet, group) = (interface.text("SubnetId").unwrap(), interface.text("SecurityGroupId.1").unwrap());
        self.must(Some(group), "InvalidGroup.NotFound")?;
        let subnet = self.must(Some(subnet), "InvalidSubnetID.NotFound")?.clone();
        if self.full.contains(subnet.get("zone")) {
            return Err((500, "InsufficientInstanceCapacity"));
        }
        let id = self.id("i");
        let number = u8::try_from(self.next % 250).unwrap();
        let (private, launched) = (format!("10.77.0.{number}"), format!("2026-11-23T00:00:{:02}.000Z", self.next % 60));
        let public = if interface.text("AssociatePublicIpAddress") == Some("true") { "127.0.0.1" } else { "" };
        let attributes = [
            ("image", request.text("ImageId").unwrap()),
            ("instance-type", request.text("InstanceType").unwrap()),
            ("instance-state-name", "running"),
            ("snp", request.text("CpuOptions.AmdSevSnp").unwrap_or_default()),
            ("metadata", request.text("MetadataOptions.HttpTokens").unwrap_or_default()),
            ("encrypted", request.text("BlockDeviceMapping.1.Ebs.Encrypted").unwrap_or_default()),
            ("subnet", &subnet.id),
            ("vpc-id", subnet.get("vpc-id")),
            ("group", group),
            ("zone", subnet.get("zone")),
            ("private", &private),
            ("public", public),
            ("launched", &launched),
            ("token", &token),
            ("user-data", request.text("UserData").unwrap_or_default()),
        ];
        *self.made.entry(token.clone()).or_default() += 1;
        let made = self.add(Kind::Instance, &id, &attributes, tags);
        // It was taken and ends a moment later, as EC2 does when it finds no room, no volume or no key only then.
        if let Some(code) = self.endings.pop_front() {
            self.end_by_itself(&id, code);
        }
        reply(&made)
    }

    /// An instance ends by itself, for a reason.
    pub fn end_by_itself(&mut self, id: &str, code: &str) {
        let one = self.objects.get_mut(id).unwrap();
        let said = [
            ("instance-state-name", "terminated".to_owned()),
            ("transition", "Server.InternalError".to_owned()),
            ("code", code.to_owned()),
            ("why", format!("{code}: scripted")),
        ];
        one.attributes.extend(said);
    }

    pub(super) fn terminate(&mut self, id: Option<&str>) -> Reply {
        let fade = self.fade;
        let one = self.must(id, "InvalidInstanceID.NotFound")?;
        if one.get("instance-state-name") != "terminated" {
            let said = [
                ("instance-state-name", "shutting-down"),
                ("transition", "User initiated (2026-11-23 00:00:00 GMT)"),
                ("code", "Client.UserInitiatedShutdown"),
                ("why", "Client.UserInitiatedShutdown: User initiated shutdown"),
            ];
            one.attributes.extend(said.map(|(name, text)| (name, text.to_owned())));
            one.fading.get_or_insert(fade);
        }
        Ok("<instancesSet/>".into())
    }

    pub(super) fn describe_instances(&mut self, request: &Tree) -> String {
        let all = self.shown(Kind::Instance, request);
        let from: usize = request.text("NextToken").map_or(0, |token| token.parse().unwrap());
        let size: usize = request.text("MaxResults").map_or(1000, |size| size.parse().unwrap());
        let page: Vec<_> = all.iter().skip(from).take(size).map(Object::xml).collect();
        let next =
            if from + size < all.len() { format!("<nextToken>{}</nextToken>", from + size) } else { String::new() };
        for object in self.objects.values_mut() {
            match object.fading.as_mut() {
                Some(0) => drop(object.attributes.insert("instance-state-name", "terminated".into())),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        let reservations = items(page.into_iter().map(|one| format!("<instancesSet>{}</instancesSet>", items([one]))));
        format!("<reservationSet>{reservations}</reservationSet>{next}")
    }
}
