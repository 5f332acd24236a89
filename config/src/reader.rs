//! Takes a merged configuration apart, key by key.
//!
//! A section hands out what is asked for and in the end reports what nobody asked for. So the code
//! that reads a key is the only list of keys there is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use config::{File, FileFormat, Map, Value, ValueKind};

use crate::environment::{Environment, PREFIX, SEPARATOR};
use crate::{ConfigError, Place};

/// What values from the environment are marked with; those from the file have no mark.
const FROM_ENVIRONMENT: &str = "the environment";

/// What was asked for: each key, and the kind of value it takes; empty where none was set.
pub(super) type Kinds = Rc<RefCell<BTreeMap<String, String>>>;

/// A section that is being read.
pub(super) struct Section {
    /// Empty for the root, else such as `archive.s3`.
    path: String,
    values: Map<String, Value>,
    /// What was asked for.
    known: Vec<&'static str>,
    file: Rc<Option<PathBuf>>,
    kinds: Kinds,
}

/// A value that is set.
#[derive(Debug)]
pub(super) struct Field {
    /// The key with its section.
    key: String,
    kinds: Kinds,
    place: Place,
    value: Value,
}

/// What is set where either a text or a section may be.
pub(super) enum TextOrSection {
    /// Neither.
    Nothing,
    /// A text, or something that is none.
    Text(Field),
    /// A section.
    Section(Section),
}

impl Section {
    /// Merges the sources. What is not said in either is simply not there.
    pub(super) fn root(
        file: Option<(&Path, &str)>,
        environment: &Environment,
    ) -> Result<Section, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some((path, text)) = file {
            check_syntax(path, text)?;
            builder = builder.add_source(File::from_str(text, FileFormat::Toml));
        }
        let overrides: BTreeMap<_, _> = environment.overrides.clone();
        let source = config::Environment::with_prefix(PREFIX.trim_end_matches('_'))
            .prefix_separator(SEPARATOR)
            .separator(SEPARATOR)
            .source(Some(overrides.into_iter().collect()));
        let merged = builder.add_source(source).build();
        let values = merged.and_then(|merged| merged.cache.into_table());
        let path = file.map(|(path, _)| path.to_path_buf());
        let values = values.map_err(|_| ConfigError::Invalid {
            key: "the configuration".to_owned(),
            place: path.clone().map_or(Place::Nowhere, Place::File),
            reason: format!(
                "it cannot be merged with the variables {PREFIX}…; correct their names"
            ),
        })?;
        Ok(Section {
            path: String::new(),
            values,
            known: Vec::new(),
            file: Rc::new(path),
            kinds: Kinds::default(),
        })
    }

    /// Takes a section below this one, which is empty if it is not there.
    pub(super) fn section(&mut self, name: &'static str) -> Result<Section, ConfigError> {
        let mut section = Section {
            path: self.full(name),
            values: Map::new(),
            known: Vec::new(),
            file: Rc::clone(&self.file),
            kinds: Rc::clone(&self.kinds),
        };
        if let Some(field) = self.take_any(name) {
            let ValueKind::Table(values) = field.value.kind else {
                let reason = format!("it is a section; set the keys in [{}]", section.path);
                return Err(field.invalid(reason));
            };
            section.values = values;
        }
        Ok(section)
    }

    /// Takes sections of the same name, in order: `[[name]]`, or one `[name]`.
    pub(super) fn sections(&mut self, name: &'static str) -> Result<Vec<Section>, ConfigError> {
        let is_list = |value: &Value| matches!(value.kind, ValueKind::Array(_));
        if !self.values.get(name).is_some_and(is_list) {
            return Ok(match self.has(name) {
                true => vec![self.section(name)?],
                false => {
                    self.known.push(name);
                    Vec::new()
                }
            });
        }
        let path = self.full(name);
        let field = self.take_any(name);
        let values = field.map(|field| field.value.kind);
        let Some(ValueKind::Array(values)) = values else {
            return Ok(Vec::new());
        };
        let section = |value: Value| match value.kind {
            ValueKind::Table(values) => Ok(Section {
                path: path.clone(),
                values,
                known: Vec::new(),
                file: Rc::clone(&self.file),
                kinds: Rc::clone(&self.kinds),
            }),
            _ => Err(ConfigError::Invalid {
                key: path.clone(),
                place: self.place(&path, &value),
                reason: format!("it holds something else than sections; write [[{path}]]"),
            }),
        };
        values.into_iter().map(section).collect()
    }

    /// Takes what may be a section or a text.
    pub(super) fn text_or_section(
        &mut self,
        name: &'static str,
    ) -> Result<TextOrSection, ConfigError> {
        match self.values.get(name).map(|value| &value.kind) {
            Some(ValueKind::Table(_)) => self.section(name).map(TextOrSection::Section),
            _ => Ok(self
                .take(name)
                .map_or(TextOrSection::Nothing, TextOrSection::Text)),
        }
    }

    /// Whether something is set, and not yet taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Takes a value, if it is set.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field> {
        self.kinds.borrow_mut().entry(self.full(name)).or_default();
        self.take_any(name)
    }

    /// What is asked for, of this section and of all others of the same configuration.
    pub(super) fn kinds(&self) -> Kinds {
        Rc::clone(&self.kinds)
    }

    fn take_any(&mut self, name: &'static str) -> Option<Field> {
        self.known.push(name);
        let value = self.values.remove(name)?;
        let key = self.full(name);
        let place = self.place(&key, &value);
        Some(Field {
            key,
            kinds: self.kinds(),
            place,
            value,
        })
    }

    /// Reports what was set and not asked for.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        // Always the same one, whatever order the map has.
        let Some((name, value)) = self.values.iter().min_by_key(|(name, _)| *name) else {
            return Ok(());
        };
        let is_section = matches!(value.kind, ValueKind::Table(_));
        let what = match (is_section, self.path.as_str()) {
            (true, _) => "section".to_owned(),
            (false, "") => "key outside of any section".to_owned(),
            (false, path) => format!("key in [{path}]"),
        };
        let key = self.full(name);
        Err(ConfigError::Unknown {
            what,
            place: self.place(&key, value),
            advice: self.advice(name),
            key,
        })
    }

    fn advice(&self, name: &str) -> String {
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::normalized_damerau_levenshtein(known, name), *known))
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        match nearest {
            Some((likeness, known)) if likeness >= 0.5 => {
                format!("did you mean '{}'?", self.full(known))
            }
            _ => format!("known are: {}", self.known.join(", ")),
        }
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn place(&self, key: &str, value: &Value) -> Place {
        match &*self.file {
            Some(path) if !from_environment(value) => Place::File(path.clone()),
            _ => {
                let name = key.replace('.', SEPARATOR).to_uppercase();
                Place::Variable(format!("{PREFIX}{name}"))
            }
        }
    }
}

impl Field {
    /// An error about this value.
    pub(super) fn invalid(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            key: self.key.clone(),
            place: self.place.clone(),
            reason: reason.into(),
        }
    }

    /// Notes what kind of value the key takes, for the reference.
    pub(super) fn is(&self, kind: impl Into<String>) -> &Field {
        let mut kinds = self.kinds.borrow_mut();
        let known = kinds.entry(self.key.clone()).or_default();
        // What was said first is the most particular.
        if known.is_empty() {
            *known = kind.into();
        }
        self
    }

    /// The value as text.
    pub(super) fn text(&self) -> Result<String, ConfigError> {
        self.is("text");
        match &self.value.kind {
            ValueKind::String(text) if !text.is_empty() => Ok(text.clone()),
            ValueKind::String(_) => Err(self.invalid("it is empty; set it or leave it out")),
            _ => Err(self.invalid("it is not text; write it in quotes")),
        }
    }

    /// The value as text, which may be empty.
    pub(super) fn text_or_nothing(&self) -> Result<String, ConfigError> {
        self.is("text");
        match &self.value.kind {
            ValueKind::String(text) => Ok(text.clone()),
            _ => self.text(),
        }
    }

    /// The value as several texts; from a variable, with commas between them.
    pub(super) fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.is("list of texts");
        match &self.value.kind {
            ValueKind::Array(values) => {
                let text = |value: &Value| match &value.kind {
                    ValueKind::String(text) if !text.trim().is_empty() => {
                        Ok(text.trim().to_owned())
                    }
                    _ => Err(self.invalid("it holds something else than texts; write [\"…\"]")),
                };
                values.iter().map(text).collect()
            }
            _ => {
                let text = self.text()?;
                let parts = text.split(',').map(str::trim);
                Ok(parts
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect())
            }
        }
    }

    /// The value as an integer or as text; variables hold text only.
    pub(super) fn text_or_integer(&self) -> Result<String, ConfigError> {
        match self.value.kind {
            ValueKind::I64(number) => Ok(number.to_string()),
            _ => self.text(),
        }
    }

    /// The value as `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.is("`true` or `false`");
        match &self.value.kind {
            ValueKind::Boolean(value) => Ok(*value),
            ValueKind::String(text) if text == "true" => Ok(true),
            ValueKind::String(text) if text == "false" => Ok(false),
            _ => Err(self.invalid("it is neither true nor false")),
        }
    }
}

/// Whether a value, or the first one in a section, was set by the environment.
fn from_environment(value: &Value) -> bool {
    match &value.kind {
        ValueKind::Table(values) => values.values().next().is_some_and(from_environment),
        _ => value.origin() == Some(FROM_ENVIRONMENT),
    }
}

/// Finds what is wrong with a file's syntax, without showing any of it.
fn check_syntax(path: &Path, text: &str) -> Result<(), ConfigError> {
    let Err(error) = toml::de::DeTable::parse(text) else {
        return Ok(());
    };
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    Err(ConfigError::Syntax {
        path: path.to_path_buf(),
        line: text.as_bytes()[..at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1,
        message: error.message().to_owned(),
    })
}
