//! The configuration files of the cluster's parts, as text from the layout and nothing else.
//!
//! What takes YAML gets JSON, which is YAML.

use serde_json::{Value, json};

use super::keys;
use super::layout::{
    BRIDGE, CGROUP, DNS_SERVICE, FIRST_POD_ADDRESS, GATEWAY, Layout, NETWORK_NAME, Node, POD_NETWORK, SEALING_NODE,
};
use super::packages::CNI_PLUGINS;
use crate::images;

/// Where CoreDNS says that it is ready.
pub const DNS_READY: &str = "127.0.0.1:18181";
/// Where kube-proxy says that its rules are written.
pub const PROXY_HEALTH: &str = "127.0.0.1:10256";

pub fn containerd(layout: &Layout, node: Node) -> String {
    let home = layout.node(node);
    let path = |name: &str| home.join(name).to_string_lossy().into_owned();
    // Without CAP_SYS_RESOURCE (sandboxes, some CI machines) a process cannot lower its oom_score_adj, and containers
    // would not start; restrict_oom_score_adj gives them what is allowed instead.
    // Network namespaces below the state folder end with it; the default place is shared with every other runtime.
    // The plugin `opt` would make /opt/containerd.
    format!(
        r#"version = 2
root = "{root}"
state = "{run}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{cni}"
"#,
        root = path("containerd"),
        run = path("containerd-run"),
        socket = layout.containerd_socket(node).display(),
        pause = images::PAUSE,
        runc = path("runc"),
        cni = layout.cni().display(),
    )
}

/// One network for the pods of both nodes: the nodes share this machine's network, and the list of addresses in use.
pub fn pod_network(layout: &Layout) -> String {
    pretty(&json!({
        "cniVersion": "0.4.0",
        "name": NETWORK_NAME,
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_NETWORK, "rangeStart": FIRST_POD_ADDRESS, "gateway": GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": layout.root().join("addresses"),
            },
        }],
    }))
}

pub fn kubelet(layout: &Layout, node: Node) -> String {
    let home = layout.node(node);
    pretty(&json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": layout.certificate(keys::AUTHORITY)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": layout.certificate(node.name),
        "tlsPrivateKeyFile": layout.key(node.name),
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket(node).display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}/{}", node.name),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        // Kubernetes 1.35 refuses cgroup v1 by default, and there are machines (this project's CI) that have no other.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": layout.root().join("resolv.conf"),
        "podLogsDir": home.join("logs"),
        "volumePluginDir": home.join("volume-plugins"),
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": false,
        // The disk is a developer's: almost full is normal, and an image that was loaded by hand cannot be pulled
        // again once it was collected.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }))
}

/// Names outside the cluster go where this machine's own go.
pub fn resolver() -> String {
    format!("nameserver {GATEWAY}\n")
}

pub fn proxy(layout: &Layout) -> String {
    pretty(&json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": layout.kubeconfig(keys::PROXY)},
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": SEALING_NODE.name,
        "healthzBindAddress": PROXY_HEALTH,
        // Pods that talk to each other through a service share a bridge. Unless the answer comes back through this
        // machine it has the wrong sender; with bridge-nf-call-iptables that is the case, but not every kernel has it.
        "iptables": {"masqueradeAll": true},
        // The kernel settings behind these cannot be written everywhere.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }))
}

/// CoreDNS on this machine. Names of the cluster are answered from memory without a cache, so that a pod's new address
/// is known at once.
pub fn dns(layout: &Layout) -> String {
    format!(
        "cluster.local in-addr.arpa {{\n  bind {GATEWAY}\n  errors\n  ready {DNS_READY}\n  \
         kubernetes {{\n    kubeconfig {kubeconfig} curio\n    ttl 1\n    fallthrough in-addr.arpa\n  }}\n  \
         forward in-addr.arpa /etc/resolv.conf\n}}\n\
         . {{\n  bind {GATEWAY}\n  errors\n  forward . /etc/resolv.conf\n  cache 30\n}}\n",
        kubeconfig = layout.kubeconfig(keys::ADMIN).display()
    )
}

/// The volume provisioner's own file; the same goes into its ConfigMap.
pub fn provisioner(layout: &Layout) -> String {
    pretty(&json!({
        "nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [layout.volumes()]}],
    }))
}

/// What the API must hold before pods find names and get volumes.
///
/// DNS and the provisioner run on this machine, not in pods. So the service of the DNS has no selector, and its one
/// endpoint is written by hand; the account and the ConfigMap are what the provisioner looks for before it starts its
/// helper pods.
pub fn addons(layout: &Layout) -> Value {
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    let helper = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {"containers": [{
            "name": "helper-pod", "image": images::DEBIAN, "imagePullPolicy": "IfNotPresent",
        }]},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [GATEWAY]}],
            "ports": ports,
        },
        {
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {
                "name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROVISIONER_NAMESPACE}},
        {
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": PROVISIONER_ACCOUNT, "namespace": PROVISIONER_NAMESPACE},
        },
        {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": PROVISIONER_NAMESPACE},
            "data": {
                "config.json": provisioner(layout),
                "setup": "mkdir -m 0777 -p \"$VOL_DIR\"\n",
                "teardown": "rm -rf \"$VOL_DIR\"\n",
                "helperPod.yaml": helper.to_string(),
            },
        },
    ]})
}

pub const PROVISIONER_NAMESPACE: &str = "local-path-storage";
pub const PROVISIONER_ACCOUNT: &str = "local-path-provisioner";

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cluster::layout::{GPU_NODE, NODES};

    fn layout() -> Layout {
        Layout::new(Some(Path::new("/var/cache/curio/state"))).expect("a good path")
    }

    #[test]
    fn the_nodes_share_nothing_that_a_kubelet_or_a_containerd_owns() {
        let [one, two] = NODES.map(|node| format!("{}{}", kubelet(&layout(), node), containerd(&layout(), node)));
        assert!(!one.contains(GPU_NODE.name) && !two.contains(SEALING_NODE.name), "{one}\n{two}");
    }

    #[test]
    fn every_path_that_containerd_writes_lies_in_the_state_folder() {
        let text = containerd(&layout(), SEALING_NODE);
        let paths = text.split('"').filter(|word| word.starts_with('/') && *word != CNI_PLUGINS);
        let outside: Vec<&str> = paths.filter(|path| !path.starts_with("/var/cache/curio/state/")).collect();
        assert!(outside.is_empty(), "{outside:?}");
    }

    #[test]
    fn the_service_and_the_endpoint_of_the_dns_name_the_same_ports() {
        let addons = addons(&layout());
        assert_eq!(addons["items"][0]["spec"]["ports"], addons["items"][1]["ports"]);
    }

    #[test]
    fn the_provisioner_and_its_config_map_agree() {
        let addons = addons(&layout());
        assert_eq!(addons["items"][5]["data"]["config.json"], provisioner(&layout()));
        assert!(provisioner(&layout()).contains("/var/cache/curio/state/volumes"));
    }
}
