//! The text of a rule as an expression: for executors that compute it node by node, and for the GPU's source at build time.
//!
//! `build.rs` compiles this file too, so it uses nothing of the crate. The language is what [`super::rule`] takes: statements
//! `let name = expression;` and `slot = expression;`, and a last expression, made of names, numbers, `+ − * /`, and calls of
//! [`FUNCTIONS`].

/// Functions that a rule may call, and how many arguments each takes.
pub const FUNCTIONS: &[(&str, usize)] =
    &[("fma", 3), ("sqrt", 1), ("sign", 1), ("abs", 1), ("min", 2), ("max", 2), ("exp", 1), ("tanh", 1)];

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// The parameter, the gradient, a slot, a number of the call, or what a `let` named.
    Name(String),
    /// A constant.
    Number(f32),
    /// `−x`.
    Negative(Box<Expr>),
    /// `a + b`, `a - b`, `a * b` or `a / b`.
    Binary(char, Box<Expr>, Box<Expr>),
    /// One of [`FUNCTIONS`].
    Call(String, Vec<Expr>),
}

/// `let name = value;`, or where `new` is false a slot's new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Whether it names something new.
    pub new: bool,
    /// What gets the value.
    pub name: String,
    /// The value.
    pub value: Expr,
}

/// A rule's body: statements in order, then the parameter's new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    /// Statements in order.
    pub statements: Vec<Statement>,
    /// The new value of the parameter.
    pub result: Expr,
}

/// A rule as it stands in a source file.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The rule's name, as in `static NAME = "name"(…)`.
    pub name: String,
    /// Names of the parameter and of the gradient.
    pub operands: Vec<String>,
    /// Names of its slots.
    pub slots: Vec<String>,
    /// Names of its numbers.
    pub numbers: Vec<String>,
    /// Its statements and the value of each thing it updates.
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Number(f32),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let wordy = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = |keep: &dyn Fn(char) -> bool| rest.find(|c| !keep(c)).unwrap_or(rest.len());
        let n = if first.is_ascii_digit() {
            let n = length(&|c| c.is_ascii_digit() || c == '.' || c == 'e');
            let number = rest[..n].parse().map_err(|e| format!("`{}` is no number: {e}", &rest[..n]))?;
            out.push(Token::Number(number));
            n
        } else if wordy(first) {
            let n = length(&wordy);
            out.push(Token::Word(rest[..n].to_owned()));
            n
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if "+-*/(),;=".contains(first) {
            out.push(Token::Sign(first));
            1
        } else {
            return Err(format!("`{first}` is nothing that a rule is made of"));
        };
        rest = rest[n..].trim_start();
    }
    Ok(out)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn takes(&mut self, sign: char) -> bool {
        let found = self.peek(0) == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(format!("`{sign}` is missing before {:?}", self.peek(0))) }
    }

    fn sum(&mut self) -> Result<Expr, String> {
        let mut left = self.product()?;
        loop {
            let sign = if self.takes('+') {
                '+'
            } else if self.takes('-') {
                '-'
            } else {
                return Ok(left);
            };
            left = Expr::Binary(sign, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expr, String> {
        let mut left = self.factor()?;
        loop {
            let sign = if self.takes('*') {
                '*'
            } else if self.takes('/') {
                '/'
            } else {
                return Ok(left);
            };
            left = Expr::Binary(sign, Box::new(left), Box::new(self.factor()?));
        }
    }

    fn factor(&mut self) -> Result<Expr, String> {
        if self.takes('-') {
            return Ok(Expr::Negative(Box::new(self.factor()?)));
        }
        if self.takes('(') {
            let inner = self.sum()?;
            self.expect(')')?;
            return Ok(inner);
        }
        let token = self.peek(0).cloned();
        self.at += 1;
        match token {
            Some(Token::Number(n)) => Ok(Expr::Number(n)),
            Some(Token::Word(name)) if self.takes('(') => {
                let mut arguments = vec![self.sum()?];
                while self.takes(',') {
                    arguments.push(self.sum()?);
                }
                self.expect(')')?;
                match FUNCTIONS.iter().find(|f| f.0 == name) {
                    Some((_, n)) if *n == arguments.len() => Ok(Expr::Call(name, arguments)),
                    _ => Err(format!("there is no function `{name}` of {} arguments", arguments.len())),
                }
            }
            Some(Token::Word(name)) => Ok(Expr::Name(name)),
            other => Err(format!("an expression is missing before {other:?}")),
        }
    }

    /// A statement, or none where the last expression begins.
    fn statement(&mut self) -> Result<Option<Statement>, String> {
        let new = self.peek(0) == Some(&Token::Word("let".into()));
        let ahead = usize::from(new);
        let (Some(Token::Word(name)), Some(Token::Sign('='))) = (self.peek(ahead).cloned(), self.peek(ahead + 1))
        else {
            return Ok(None);
        };
        self.at += ahead + 2;
        let value = self.sum()?;
        self.expect(';')?;
        Ok(Some(Statement { new, name, value }))
    }
}

/// What the text of a body computes.
///
/// # Errors
/// What stands there that is none of the language.
pub fn parse(body: &str) -> Result<Body, String> {
    let mut parser = Parser { tokens: tokens(body)?, at: 0 };
    let mut statements = Vec::new();
    while let Some(statement) = parser.statement()? {
        statements.push(statement);
    }
    let result = parser.sum()?;
    match parser.peek(0) {
        None => Ok(Body { statements, result }),
        Some(token) => Err(format!("{token:?} stands after the last expression")),
    }
}

/// The rules of a source file: every `rule! { … static NAME = "name"(p, g; slots; numbers) { body } }` in it.
///
/// # Errors
/// A rule that is not written so.
pub fn find(text: &str) -> Result<Vec<Written>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("rule! {") {
        rest = &rest[at..];
        let head = rest.find("= \"").map(|n| &rest[n + 3..]).ok_or("a rule without a name")?;
        let (name, head) = head.split_once('"').ok_or("a rule's name does not end")?;
        let (lists, tail) = head
            .trim_start()
            .strip_prefix('(')
            .and_then(|h| h.split_once(')'))
            .ok_or_else(|| format!("{name}: operands are missing"))?;
        let body = tail.trim_start().strip_prefix('{').and_then(|b| b.split_once('}'));
        let (body, after) = body.ok_or_else(|| format!("{name}: a body in braces is missing"))?;
        let mut lists = lists.split(';').map(|l| {
            let words = l.split(',').map(|w| w.trim().to_owned());
            words.filter(|w| !w.is_empty()).collect::<Vec<_>>()
        });
        let mut list = || lists.next().ok_or_else(|| format!("{name}: a list is missing"));
        let (operands, slots, numbers) = (list()?, list()?, list()?);
        let body = parse(body).map_err(|e| format!("{name}: {e}"))?;
        out.push(Written { name: name.to_owned(), operands, slots, numbers, body });
        rest = after;
    }
    Ok(out)
}

fn c(expr: &Expr) -> String {
    match expr {
        Expr::Name(name) => format!("{name}_"),
        Expr::Number(n) => format!("{n:?}f"),
        Expr::Negative(x) => format!("(-{})", c(x)),
        Expr::Binary(sign, a, b) => format!("({} {sign} {})", c(a), c(b)),
        Expr::Call(name, arguments) => {
            let arguments: Vec<_> = arguments.iter().map(c).collect();
            format!("rule_{name}({})", arguments.join(", "))
        }
    }
}

/// The rule as a functor of CUDA's C++, which `update` of train.cu takes. Names get an underscore, so that none is a word of C.
pub fn cuda(rule: &Written) -> String {
    let Written { name, operands, slots, numbers, body } = rule;
    let (p, g) = (&operands[0], &operands[1]);
    let mut out = format!("struct Rule_{name} {{\n    static const int SLOTS = {};\n", slots.len());
    out += &format!("    DEV float step(float {p}_, float {g}_, float* s, const float* k) {{\n");
    for (i, slot) in slots.iter().enumerate() {
        out += &format!("        float {slot}_ = s[{i}];\n");
    }
    for (i, number) in numbers.iter().enumerate() {
        out += &format!("        const float {number}_ = k[{i}];\n");
    }
    for Statement { new, name, value } in &body.statements {
        let word = if *new { "const float " } else { "" };
        out += &format!("        {word}{name}_ = {};\n", c(value));
    }
    for (i, slot) in slots.iter().enumerate() {
        out += &format!("        s[{i}] = {slot}_;\n");
    }
    out += &format!("        return {};\n    }}\n}};\n", c(&body.result));
    out
}
