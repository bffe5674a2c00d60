//! Models that other programs have already brought to this disk: LM Studio, Ollama, Hugging Face, llama.cpp.
//!
//! Only looks, never writes. The folders are whatever is there: the search is bounded in entries, depth and time, goes into no
//! folder twice (so links in circles end), and passes over what is damaged or may not be read.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// A model file on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What to open.
    pub path: PathBuf,
    /// How its program calls it: `llama3.2:1b`, `lmstudio-community/Qwen3-4B-Q4_K_M`.
    pub name: String,
    /// Whose it is: `LM Studio`, `Ollama`, `Hugging Face`, `llama.cpp`, `Ullage`.
    pub from: &'static str,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Where each program keeps its models.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// `publisher/model/file.gguf`.
    pub lm_studio: Vec<PathBuf>,
    /// `manifests` and `blobs`.
    pub ollama: Vec<PathBuf>,
    /// `models--publisher--model/snapshots/revision/file.gguf`.
    pub hugging_face: Vec<PathBuf>,
    /// `publisher_model_file.gguf`.
    pub llama_cpp: Vec<PathBuf>,
    /// `file.gguf`.
    pub ullage: Vec<PathBuf>,
}

/// What a search may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of folders looked at.
    pub entries: usize,
    /// Models listed.
    pub found: usize,
    /// Time taken.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 50_000, found: 2000, time: Duration::from_secs(2) }
    }
}

/// A manifest of Ollama's that is larger than this is none.
const MANIFEST_BYTES: u64 = 1 << 20;

/// Models on this disk, by program and then by name. Takes up to two seconds where disks are slow: not for a window's thread.
pub fn models() -> Vec<Found> {
    models_in(&Roots::here(), Limits::default())
}

/// As [`models`], in folders and within limits of one's choosing.
pub fn models_in(roots: &Roots, limits: Limits) -> Vec<Found> {
    let mut search = Search {
        limits,
        start: Instant::now(),
        looked: 0,
        folders: BTreeSet::new(),
        files: BTreeSet::new(),
        found: Vec::new(),
    };
    for root in &roots.ullage {
        search.tree(root, 1, "Ullage", &|_, stem| stem.to_owned());
    }
    for root in &roots.lm_studio {
        search.tree(root, 4, "LM Studio", &|folders, stem| match folders.first() {
            Some(publisher) => format!("{publisher}/{stem}"),
            None => stem.to_owned(),
        });
    }
    for root in &roots.ollama {
        search.ollama(root);
    }
    for root in &roots.hugging_face {
        search.hugging_face(root);
    }
    for root in &roots.llama_cpp {
        search.tree(root, 2, "llama.cpp", &|_, stem| stem.to_owned());
    }
    let order = ["Ullage", "LM Studio", "Ollama", "Hugging Face", "llama.cpp"];
    let place = |f: &Found| order.iter().position(|o| *o == f.from);
    search
        .found
        .sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.path.cmp(&b.path)));
    search.found
}

impl Roots {
    /// The folders of this user, as each program finds them.
    pub fn here() -> Self {
        Self::of(&|name| std::env::var_os(name).filter(|v| !v.is_empty()))
    }

    /// The folders of a user with these environment variables.
    fn of(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let dir = |name: &str| env(name).map(PathBuf::from);
        let home = dir("HOME").or_else(|| dir("USERPROFILE"));
        let in_home = |path: &str| home.iter().map(|h| h.join(path)).collect::<Vec<_>>();
        let cache = dir("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let in_cache = |path: &str| cache.iter().map(|c| c.join(path)).collect::<Vec<_>>();
        let lm_studio = [in_home(".lmstudio/models"), in_home(".cache/lm-studio/models")].concat();
        let ollama = match dir("OLLAMA_MODELS") {
            Some(dir) => vec![dir],
            // The second is where Ollama's service on Linux keeps its own.
            None => [in_home(".ollama/models"), vec!["/usr/share/ollama/.ollama/models".into()]].concat(),
        };
        let hugging_face = dir("HF_HUB_CACHE")
            .or_else(|| Some(dir("HF_HOME")?.join("hub")))
            .map_or_else(|| in_cache("huggingface/hub"), |dir| vec![dir]);
        let llama_cpp = match (dir("LLAMA_CACHE"), dir("LOCALAPPDATA")) {
            (Some(dir), _) => vec![dir],
            (None, Some(local)) => vec![local.join("llama.cpp")],
            (None, None) => [in_cache("llama.cpp"), in_home("Library/Caches/llama.cpp")].concat(),
        };
        Self { lm_studio, ollama, hugging_face, llama_cpp, ullage: in_cache("ullage") }
    }
}

/// A search under way.
struct Search {
    limits: Limits,
    start: Instant,
    looked: usize,
    /// Real paths of folders that have been read.
    folders: BTreeSet<PathBuf>,
    /// Real paths of files that are listed.
    files: BTreeSet<PathBuf>,
    found: Vec<Found>,
}

/// What Ollama writes about a model, as far as it matters here.
#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
}

impl Search {
    fn spent(&self) -> bool {
        self.looked >= self.limits.entries
            || self.found.len() >= self.limits.found
            || self.start.elapsed() >= self.limits.time
    }

    /// The entries of a folder that has not been read before, by name; none of one that cannot be read.
    fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let Ok(real) = fs::canonicalize(dir) else { return Vec::new() };
        if self.spent() || !self.folders.insert(real) {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let room = self.limits.entries - self.looked;
        let mut out: Vec<PathBuf> = entries.take(room).filter_map(|e| e.ok().map(|e| e.path())).collect();
        self.looked += out.len();
        out.sort();
        out
    }

    /// Lists `.gguf` files up to `depth` folders deep; `name` makes their names from the folders below `root` and the stem.
    fn tree(&mut self, root: &Path, depth: usize, from: &'static str, name: &dyn Fn(&[String], &str) -> String) {
        self.branch(root, &mut Vec::new(), depth, from, name);
    }

    fn branch(
        &mut self,
        dir: &Path,
        folders: &mut Vec<String>,
        depth: usize,
        from: &'static str,
        name: &dyn Fn(&[String], &str) -> String,
    ) {
        for path in self.entries(dir) {
            if self.spent() {
                return;
            }
            if path.is_dir() {
                if folders.len() + 1 < depth {
                    folders.push(text(&path));
                    self.branch(&path, folders, depth, from, name);
                    folders.pop();
                }
            } else if let Some(stem) = model_stem(&path) {
                self.list(path, name(folders, &stem), from);
            }
        }
    }

    /// Lists a file, if it is a model and not listed yet.
    fn list(&mut self, path: PathBuf, name: String, from: &'static str) {
        let Ok(real) = fs::canonicalize(&path) else { return };
        let Some(bytes) = model_bytes(&path) else { return };
        if self.files.insert(real) {
            self.found.push(Found { path, name, from, bytes });
        }
    }

    /// Revisions of one model link to the same files: each is listed once.
    fn hugging_face(&mut self, root: &Path) {
        for repository in self.entries(root) {
            let folder = text(&repository);
            let Some(of) = folder.strip_prefix("models--") else { continue };
            let publisher = of.split_once("--").map(|(publisher, _)| publisher.to_owned());
            self.tree(&repository.join("snapshots"), 4, "Hugging Face", &|_, stem| match &publisher {
                Some(publisher) => format!("{publisher}/{stem}"),
                None => stem.to_owned(),
            });
        }
    }

    /// `manifests/registry/namespace/model/tag` names the blob that is the model.
    fn ollama(&mut self, root: &Path) {
        for registry in self.entries(&root.join("manifests")) {
            for namespace in self.entries(&registry) {
                for model in self.entries(&namespace) {
                    for tag in self.entries(&model) {
                        if self.spent() {
                            return;
                        }
                        let Some(blob) = manifest_blob(&tag) else { continue };
                        let (space, model, tag) = (text(&namespace), text(&model), text(&tag));
                        let name = if space == "library" {
                            format!("{model}:{tag}")
                        } else {
                            format!("{space}/{model}:{tag}")
                        };
                        // Written with a dash today, with a colon once.
                        let dashed = root.join("blobs").join(format!("sha256-{blob}"));
                        let path =
                            if dashed.is_file() { dashed } else { root.join("blobs").join(format!("sha256:{blob}")) };
                        self.list_tag(path, name);
                    }
                }
            }
        }
    }

    /// Several tags may be one blob: each tag is a name that its user knows.
    fn list_tag(&mut self, path: PathBuf, name: String) {
        if let Some(bytes) = model_bytes(&path) {
            self.found.push(Found { path, name, from: "Ollama", bytes });
        }
    }
}

/// The last part of a path.
fn text(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of a model file without its ending; `None` for files that are no whole model: later parts of a split one, and the
/// image encoders that lie beside some.
fn model_stem(path: &Path) -> Option<String> {
    let name = text(path);
    let at = name.len().checked_sub(5).filter(|at| name.is_char_boundary(*at))?;
    let (stem, ending) = name.split_at(at);
    if !ending.eq_ignore_ascii_case(".gguf") || stem.is_empty() || stem.to_ascii_lowercase().starts_with("mmproj") {
        return None;
    }
    let later = stem.rsplit_once("-of-").is_some_and(|(before, of)| {
        let part = before.rsplit_once('-').map_or("", |(_, part)| part);
        let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        number(of) && number(part) && part != "00001"
    });
    (!later).then(|| stem.to_owned())
}

/// Bytes of a file that begins as a model file does.
fn model_bytes(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut magic = [0; 4];
    File::open(path).ok()?.read_exact(&mut magic).ok()?;
    (magic == *b"GGUF").then_some(meta.len())
}

/// The digest of the model that a manifest of Ollama's names. Manifests are files of others: only what is a digest is used.
fn manifest_blob(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    if meta.len() > MANIFEST_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MANIFEST_BYTES).read_to_end(&mut bytes).ok()?;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    let model = manifest.layers.iter().find(|l| l.media_type == "application/vnd.ollama.image.model")?;
    let digest = model.digest.strip_prefix("sha256:")?;
    (digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit())).then(|| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file of `bytes` bytes that begins as a model does, and the folders above it.
    fn model(root: &Path, path: &str, bytes: usize) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut content = b"GGUF".to_vec();
        content.resize(bytes, 7);
        fs::write(path, content).unwrap();
    }

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn roots(home: &Path) -> Roots {
        let home = home.to_owned();
        Roots::of(&move |name| match name {
            "HOME" => Some(home.clone().into_os_string()),
            "OLLAMA_MODELS" => Some(home.join(".ollama/models").into_os_string()),
            _ => None,
        })
    }

    fn names(found: &[Found]) -> Vec<(&str, &str, u64)> {
        found.iter().map(|f| (f.from, f.name.as_str(), f.bytes)).collect()
    }

    fn manifest(digest: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"sha256:0"}},"layers":[
              {{"mediaType":"application/vnd.ollama.image.template","digest":"sha256:1","size":3}},
              {{"mediaType":"application/vnd.ollama.image.model","digest":"{digest}","size":9}}]}}"#
        )
    }

    #[test]
    fn every_programs_models_are_found_under_the_names_it_gives_them() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        model(at, ".lmstudio/models/unsloth/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", 40);
        model(at, ".lmstudio/models/unsloth/Qwen3-4B-GGUF/mmproj-F16.gguf", 40);
        model(at, ".cache/lm-studio/models/a/b/big-00001-of-00003.GGUF", 41);
        model(at, ".cache/lm-studio/models/a/b/big-00002-of-00003.gguf", 41);
        let (a, b) = ("a1".repeat(32), "B2".repeat(32));
        model(at, &format!(".ollama/models/blobs/sha256-{a}"), 50);
        model(at, &format!(".ollama/models/blobs/sha256:{b}"), 51);
        let tags = ".ollama/models/manifests/registry.ollama.ai";
        write(at, &format!("{tags}/library/llama3.2/1b"), &manifest(&format!("sha256:{a}")));
        write(at, &format!("{tags}/library/llama3.2/latest"), &manifest(&format!("sha256:{a}")));
        write(at, &format!("{tags}/someone/tiny/q4"), &manifest(&format!("sha256:{b}")));
        let hub = ".cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-GGUF";
        model(at, &format!("{hub}/snapshots/r1/smollm2-q8_0.gguf"), 60);
        model(at, &format!("{hub}/snapshots/r1/sub/smollm2-q4_0.gguf"), 61);
        model(at, ".cache/huggingface/hub/datasets--x--y/snapshots/r/z.gguf", 62);
        model(at, ".cache/llama.cpp/ggml-org_gemma.gguf", 70);
        model(at, ".cache/ullage/mine.gguf", 80);
        let found = models_in(&roots(at), Limits::default());
        assert_eq!(
            names(&found),
            [
                ("Ullage", "mine", 80),
                ("LM Studio", "a/big-00001-of-00003", 41),
                ("LM Studio", "unsloth/Qwen3-4B-Q4_K_M", 40),
                ("Ollama", "llama3.2:1b", 50),
                ("Ollama", "llama3.2:latest", 50),
                ("Ollama", "someone/tiny:q4", 51),
                ("Hugging Face", "HuggingFaceTB/smollm2-q4_0", 61),
                ("Hugging Face", "HuggingFaceTB/smollm2-q8_0", 60),
                ("llama.cpp", "ggml-org_gemma", 70),
            ]
        );
        assert!(found.iter().all(|f| f.path.is_file()));
    }

    #[test]
    fn variables_say_where_to_look() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_owned();
        model(&at, "hf/hub/models--solo/snapshots/r/solo.gguf", 10);
        model(&at, "own/llama.gguf", 11);
        model(&at, "xdg/ullage/u.gguf", 12);
        let base = at.clone();
        let roots = Roots::of(&move |name| {
            let path = match name {
                "HF_HOME" => "hf",
                "LLAMA_CACHE" => "own",
                "XDG_CACHE_HOME" => "xdg",
                "OLLAMA_MODELS" => "nothing",
                _ => return None,
            };
            Some(base.join(path).into_os_string())
        });
        let found = models_in(&roots, Limits::default());
        assert_eq!(names(&found), [("Ullage", "u", 12), ("Hugging Face", "solo", 10), ("llama.cpp", "llama", 11)]);
        assert!(models_in(&Roots::of(&|_| None), Limits { entries: 0, ..Limits::default() }).is_empty());
    }

    #[test]
    fn what_is_damaged_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        write(at, ".lmstudio/models/a/b/empty.gguf", "");
        write(at, ".lmstudio/models/a/b/text.gguf", "this is no model");
        write(at, ".lmstudio/models/a/b/.gguf", "GGUF and no name");
        write(at, ".lmstudio/models/a/b/notes.txt", "GGUF");
        fs::create_dir_all(at.join(".lmstudio/models/a/b/folder.gguf")).unwrap();
        model(at, ".lmstudio/models/a/b/c/d/too/deep.gguf", 9);
        let tags = ".ollama/models/manifests/registry.ollama.ai/library/m";
        let good = "0".repeat(64);
        write(at, &format!("{tags}/broken"), "{\"layers\": [");
        write(at, &format!("{tags}/other"), "[1, 2, 3]");
        write(at, &format!("{tags}/huge"), &" ".repeat((MANIFEST_BYTES + 1) as usize));
        write(at, &format!("{tags}/gone"), &manifest(&format!("sha256:{good}")));
        // A digest is a digest and no path.
        write(at, "secret", "GGUF of another folder");
        write(at, &format!("{tags}/climbs"), &manifest("sha256:../../../secret"));
        write(at, &format!("{tags}/long"), &manifest(&format!("sha256:{good}0")));
        write(at, ".cache/huggingface/hub/models--a--b", "a file where a folder belongs");
        assert_eq!(names(&models_in(&roots(at), Limits::default())), []);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_circles_end() {
        use std::os::unix::fs::symlink;
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        let hub = at.join(".cache/huggingface/hub/models--o--m");
        model(at, ".cache/huggingface/hub/models--o--m/blobs/123", 33);
        for revision in ["r1", "r2"] {
            fs::create_dir_all(hub.join("snapshots").join(revision)).unwrap();
            symlink("../../blobs/123", hub.join("snapshots").join(revision).join("m.gguf")).unwrap();
        }
        symlink("../../blobs/none", hub.join("snapshots/r1/dangling.gguf")).unwrap();
        // A folder on another disk, linked to; a folder that links to the one above it; a file that links to itself.
        model(at, "disk/pub/m/linked.gguf", 34);
        fs::create_dir_all(at.join(".lmstudio")).unwrap();
        symlink(at.join("disk"), at.join(".lmstudio/models")).unwrap();
        symlink(at.join("disk"), at.join("disk/pub/m/up")).unwrap();
        symlink(at.join("disk"), at.join("disk/round")).unwrap();
        symlink("self.gguf", at.join("disk/self.gguf")).unwrap();
        let found = models_in(&roots(at), Limits::default());
        assert_eq!(names(&found), [("LM Studio", "pub/linked", 34), ("Hugging Face", "o/m", 33)]);
    }

    #[test]
    fn the_search_is_bounded() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path();
        for i in 0..40 {
            model(at, &format!(".lmstudio/models/p/m{i:02}/f.gguf"), 8);
        }
        let with = |limits: Limits| models_in(&roots(at), limits).len();
        let all = Limits::default();
        assert_eq!(with(all), 40);
        assert_eq!(with(Limits { found: 7, ..all }), 7);
        let few = with(Limits { entries: 60, ..all });
        assert!(few < 40, "{few}");
        assert_eq!(with(Limits { time: Duration::ZERO, ..all }), 0);
    }
}
