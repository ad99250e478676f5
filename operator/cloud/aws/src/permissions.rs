//! The least that the operator's identity needs: read off the calls that this crate makes.

use std::fmt::Write as _;

use crate::convert::{TAG_CLUSTER, TAG_OWNER};

/// What a statement may be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Describes: AWS knows no limit for these.
    Any,
    /// Makes something with our tags on it.
    Creates,
    /// Changes or removes something with our tags on it.
    Ours,
}

/// Every action that this crate calls, as its IAM name, and what it may be limited to (Service Authorization Reference,
/// "Actions defined by Amazon EC2", "... Elastic Load Balancing V2"). A test compares it with the calls really made.
pub const CALLS: &[(&str, Limit)] = &[
    ("ec2:AttachInternetGateway", Limit::Ours),
    ("ec2:AuthorizeSecurityGroupEgress", Limit::Ours),
    ("ec2:AuthorizeSecurityGroupIngress", Limit::Ours),
    ("ec2:CreateInternetGateway", Limit::Creates),
    ("ec2:CreateRoute", Limit::Any),
    ("ec2:CreateSecurityGroup", Limit::Creates),
    ("ec2:CreateSubnet", Limit::Creates),
    ("ec2:CreateVpc", Limit::Creates),
    ("ec2:DeleteInternetGateway", Limit::Ours),
    ("ec2:DeleteSecurityGroup", Limit::Ours),
    ("ec2:DeleteSubnet", Limit::Ours),
    ("ec2:DeleteVpc", Limit::Ours),
    ("ec2:DescribeEgressOnlyInternetGateways", Limit::Any),
    ("ec2:DescribeImages", Limit::Any),
    ("ec2:DescribeInstanceTypeOfferings", Limit::Any),
    ("ec2:DescribeInstanceTypes", Limit::Any),
    ("ec2:DescribeInstances", Limit::Any),
    ("ec2:DescribeInternetGateways", Limit::Any),
    ("ec2:DescribeNetworkAcls", Limit::Any),
    ("ec2:DescribeNetworkInterfaces", Limit::Any),
    ("ec2:DescribeRouteTables", Limit::Any),
    ("ec2:DescribeSecurityGroups", Limit::Any),
    ("ec2:DescribeSubnets", Limit::Any),
    ("ec2:DescribeVpcEndpoints", Limit::Any),
    ("ec2:DescribeVpcs", Limit::Any),
    ("ec2:DescribeVpnGateways", Limit::Any),
    ("ec2:DetachInternetGateway", Limit::Ours),
    ("ec2:ReplaceRoute", Limit::Any),
    ("ec2:RevokeSecurityGroupEgress", Limit::Ours),
    ("ec2:RevokeSecurityGroupIngress", Limit::Ours),
    ("ec2:RunInstances", Limit::Creates),
    ("ec2:TerminateInstances", Limit::Ours),
    ("elasticloadbalancing:CreateListener", Limit::Ours),
    ("elasticloadbalancing:CreateLoadBalancer", Limit::Creates),
    ("elasticloadbalancing:CreateTargetGroup", Limit::Creates),
    ("elasticloadbalancing:DeleteLoadBalancer", Limit::Ours),
    ("elasticloadbalancing:DeleteTargetGroup", Limit::Ours),
    ("elasticloadbalancing:DeregisterTargets", Limit::Ours),
    ("elasticloadbalancing:DescribeListeners", Limit::Any),
    ("elasticloadbalancing:DescribeLoadBalancers", Limit::Any),
    ("elasticloadbalancing:DescribeTags", Limit::Any),
    ("elasticloadbalancing:DescribeTargetGroups", Limit::Any),
    ("elasticloadbalancing:DescribeTargetHealth", Limit::Any),
    ("elasticloadbalancing:ModifyLoadBalancerAttributes", Limit::Ours),
    ("elasticloadbalancing:ModifyTargetGroupAttributes", Limit::Ours),
    ("elasticloadbalancing:RegisterTargets", Limit::Ours),
    ("servicequotas:GetServiceQuota", Limit::Any),
];

/// The same for the key of a master secret ("Actions defined by AWS Key Management Service"; `ReEncrypt` needs two).
pub const KEY_CALLS: &[&str] = &["kms:Decrypt", "kms:Encrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"];

/// The policy document (JSON) for the key of a master secret. Without the cluster's UID in the encryption context, by
/// which a ciphertext is of one cluster, the key is of no use to whoever has this right.
#[must_use]
pub fn key_policy(arn: &str) -> String {
    let actions: Vec<_> = KEY_CALLS.iter().map(|action| format!("\"{action}\"")).collect();
    let actions = actions.join(", ");
    format!(
        r#"{{
  "Version": "2012-10-17",
  "Statement": [
    {{
      "Sid": "MasterSecret",
      "Effect": "Allow",
      "Action": [{actions}],
      "Resource": "{arn}",
      "Condition": {{"Null": {{"kms:EncryptionContext:{TAG_CLUSTER}": "false"}}}}
    }}
  ]
}}
"#
    )
}

/// The policy document (JSON) of the operator whose objects bear this owner.
///
/// Creating asks for our owner tag in the request; changing asks for it on the object. Two things need more than their
/// own names: whoever may create with tags needs `CreateTags` and `AddTags` while creating (and then only, or it
/// could make strangers' objects its own by tagging them), and creating something
/// *in* or *of* an object that has no tags in the request (a subnet in a VPC, an instance of an image) needs these by
/// themselves. `CreateRoute` and `ReplaceRoute` act on the VPC's main table, which AWS makes without tags. The first
/// load balancer of an account makes a role of that service (ELB user guide, "service-linked role"), by the caller's right.
#[must_use]
pub fn policy(owner: &str) -> String {
    let actions = |limit: Limit| {
        let mut list = String::new();
        for (action, _) in CALLS.iter().filter(|(_, of)| *of == limit) {
            let comma = if list.is_empty() { "" } else { "," };
            // Writing to a String can't fail.
            let _ = write!(list, "{comma}\n        \"{action}\"");
        }
        list
    };
    let (any, creates, ours) = (actions(Limit::Any), actions(Limit::Creates), actions(Limit::Ours));
    format!(
        r#"{{
  "Version": "2012-10-17",
  "Statement": [
    {{
      "Sid": "Look",
      "Effect": "Allow",
      "Action": [{any}
      ],
      "Resource": "*"
    }},
    {{
      "Sid": "MakeWithOurTag",
      "Effect": "Allow",
      "Action": [{creates}
      ],
      "Resource": "*",
      "Condition": {{"StringEquals": {{"aws:RequestTag/{TAG_OWNER}": "{owner}"}}}}
    }},
    {{
      "Sid": "MakeInAndOf",
      "Effect": "Allow",
      "Action": ["ec2:CreateSecurityGroup", "ec2:CreateSubnet", "ec2:RunInstances"],
      "Resource": [
        "arn:*:ec2:*::image/*",
        "arn:*:ec2:*:*:security-group/*",
        "arn:*:ec2:*:*:subnet/*",
        "arn:*:ec2:*:*:vpc/*",
        "arn:*:ec2:*::snapshot/*"
      ]
    }},
    {{
      "Sid": "TagWhileMaking",
      "Effect": "Allow",
      "Action": ["ec2:CreateTags"],
      "Resource": "*",
      "Condition": {{
        "StringEquals": {{"aws:RequestTag/{TAG_OWNER}": "{owner}"}},
        "Null": {{"ec2:CreateAction": "false"}}
      }}
    }},
    {{
      "Sid": "TagBalancersWhileMaking",
      "Effect": "Allow",
      "Action": ["elasticloadbalancing:AddTags"],
      "Resource": "*",
      "Condition": {{
        "StringEquals": {{"aws:RequestTag/{TAG_OWNER}": "{owner}"}},
        "Null": {{"elasticloadbalancing:CreateAction": "false"}}
      }}
    }},
    {{
      "Sid": "FirstBalancerOfTheAccount",
      "Effect": "Allow",
      "Action": ["iam:CreateServiceLinkedRole"],
      "Resource": "arn:*:iam::*:role/aws-service-role/elasticloadbalancing.amazonaws.com/*",
      "Condition": {{"StringEquals": {{"iam:AWSServiceName": "elasticloadbalancing.amazonaws.com"}}}}
    }},
    {{
      "Sid": "ChangeWhatHasOurTag",
      "Effect": "Allow",
      "Action": [{ours}
      ],
      "Resource": "*",
      "Condition": {{"StringEquals": {{"aws:ResourceTag/{TAG_OWNER}": "{owner}"}}}}
    }}
  ]
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_policy_is_for_that_key_and_asks_for_a_clusters_context() {
        let policy: serde_json::Value = serde_json::from_str(&key_policy("arn:k")).unwrap();
        let statement = &policy["Statement"][0];
        assert_eq!(policy["Statement"].as_array().unwrap().len(), 1);
        assert_eq!((&statement["Resource"], &statement["Action"]), (&"arn:k".into(), &serde_json::json!(KEY_CALLS)));
        assert_eq!(statement["Condition"]["Null"]["kms:EncryptionContext:constellation.dev/cluster-uid"], "false");
    }
}
