//! Who serves: the one server, the primary that sentinels name, or the primaries of a cluster.
//!
//! It is asked each time a link is made, and again while the link lives: a server that serves no
//! more goes on answering, and what it is told then is lost.

mod cluster;
mod login;
mod sentinels;
mod slot;

use std::{fmt, sync::Arc, time::Duration};

use fanfare_core::BrokerError;
use redis::{PushInfo, RedisError, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

pub(crate) use self::login::Address;
use self::{cluster::Cluster, login::Login, sentinels::Sentinels};
use crate::{
    command,
    config::{RedisConfig, RedisTls, bad},
    error::Failure,
    reader::Server,
};

/// Who serves something. A clone is the same.
#[derive(Clone)]
pub(crate) struct Home {
    form: Arc<Form>,
    /// In a cluster: the hash tag whose slot it is about, and the slot.
    tag: Option<(Arc<str>, u16)>,
    connect_timeout: Duration,
    command_timeout: Duration,
}

enum Form {
    Server(Login, Address),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

/// A link that was made to who serves.
pub(crate) struct Met {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) server: Server,
    pub(crate) at: Address,
}

impl Home {
    /// Who serves by these settings.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, BrokerError> {
        let form = match (&config.sentinel, &config.cluster[..]) {
            (None, []) => {
                let (login, address) = Login::parse("url", &config.url, config)?;
                Form::Server(login, address)
            }
            (Some(_), [_, ..]) => {
                return Err(bad("sentinel", "and cluster exclude each other"));
            }
            (Some(sentinel), []) => {
                if sentinel.master.is_empty() {
                    return Err(bad("sentinel.master", "is empty"));
                }
                if sentinel.urls.is_empty() {
                    return Err(bad("sentinel.urls", "is empty; name every sentinel"));
                }
                let mut clients = Vec::new();
                for (index, url) in sentinel.urls.iter().enumerate() {
                    let setting = format!("sentinel.urls[{index}]");
                    let (login, address) = Login::parse(&setting, url, config)?;
                    let client = login.client(&address);
                    clients.push(client.map_err(|_| bad(&setting, "is no URL of Redis"))?);
                }
                // Its host is not used: the sentinels name it.
                let (login, _) = Login::parse("url", &config.url, config)?;
                let master = sentinel.master.clone();
                let patience = config.connect_timeout;
                Form::Sentinels(Sentinels::new(master, clients, login, patience))
            }
            (None, [_, ..]) => {
                let parse = |(index, url): (usize, &String)| {
                    Login::parse(&format!("cluster[{index}]"), url, config)
                };
                let nodes = config.cluster.iter().enumerate().map(parse);
                let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
                if let Some(index) = nodes.iter().position(|(login, _)| login.database() != 0) {
                    let why = "names a database; a cluster has one, 0";
                    return Err(bad(&format!("cluster[{index}]"), why));
                }
                let mut logins: Vec<_> = nodes.iter().map(|(login, _)| login.clone()).collect();
                let seeds = nodes.into_iter().map(|(_, address)| address).collect();
                // The first one's login counts at all nodes, also at those that are found later.
                let login = logins.swap_remove(0);
                Form::Cluster(Cluster::new(seeds, login, config.connect_timeout))
            }
        };
        if config.tls != RedisTls::default() && !form.login().is_tls() {
            let why = "is given, and the URL is not `rediss://`";
            return Err(bad("tls", why));
        }
        Ok(Self {
            form: Arc::new(form),
            tag: None,
            connect_timeout: config.connect_timeout,
            command_timeout: config.command_timeout,
        })
    }

    /// Who serves the keys with a hash tag. Without a cluster, the same.
    #[must_use]
    pub(crate) fn of(&self, tag: &str) -> Self {
        let is_cluster = matches!(*self.form, Form::Cluster(_));
        Self {
            tag: is_cluster.then(|| (tag.into(), slot::of(tag))),
            ..self.clone()
        }
    }

    /// Whether it is a cluster's nodes.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(*self.form, Form::Cluster(_))
    }

    /// The hash tag that this is about, in a cluster: pub/sub is sharded then.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.tag.as_ref().map(|(tag, _)| &**tag)
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.form.login().database()
    }

    /// Makes a link to who serves now.
    pub(crate) async fn connect(
        &self,
        on_push: impl Fn(PushInfo) -> Result<(), std::convert::Infallible> + Send + Sync + 'static,
    ) -> Result<Met, Failure> {
        let finding = async {
            match &*self.form {
                Form::Server(_, address) => Ok(address.clone()),
                Form::Sentinels(sentinels) => sentinels.ask().await,
                Form::Cluster(cluster) => cluster.find(self.slot()).await,
            }
        };
        // Several nodes may be asked in turn.
        let found = timeout(self.connect_timeout * 2, finding).await;
        let at = found.unwrap_or_else(|_| Err(Failure::late()))?;
        let client = self.form.login().client(&at);
        let client = client.map_err(|error| Failure::of_connecting(&error))?;
        let mut connection = command::connect(&client, on_push, self.connect_timeout).await?;
        let asked = timeout(self.command_timeout, command::identify(&mut connection)).await;
        let server = asked.unwrap_or_else(|_| Err(Failure::late()))?;
        self.form.suits(&server)?;
        self.holds(&mut connection).await?;
        Ok(Met {
            connection,
            server,
            at,
        })
    }

    /// Whether the server at the other end of a link still serves: asked of others, and of itself.
    pub(crate) async fn verify(
        &self,
        at: &Address,
        link: &mut MultiplexedConnection,
    ) -> Result<(), Failure> {
        // Who cannot be asked says nothing against it.
        let _ = match &*self.form {
            Form::Server(..) => return Ok(()),
            Form::Sentinels(sentinels) => sentinels.ask().await.map(|_| ()),
            Form::Cluster(cluster) => cluster.refresh().await,
        };
        if !self.is_current(at) {
            return Err(Failure::Moving("another server serves now".into()));
        }
        self.holds(link).await
    }

    /// Whether the server calls itself a primary, and if it is one of a cluster's, finds it whole.
    async fn holds(&self, link: &mut MultiplexedConnection) -> Result<(), Failure> {
        let ask = async {
            let role: Vec<Value> = redis::cmd("ROLE")
                .query_async(link)
                .await
                .map_err(|error| {
                    // Without it a primary that was demoted would be taken for one.
                    Failure::of_answer(&error)
                })?;
            let is_primary = matches!(role.first(), Some(Value::BulkString(r)) if r == b"master");
            if !is_primary {
                return Err(Failure::Moving("the server is no primary".into()));
            }
            if self.is_cluster() {
                cluster::is_whole(link).await?;
            }
            Ok(())
        };
        if let Form::Server(..) = *self.form {
            return Ok(());
        }
        let answer = timeout(self.command_timeout, ask).await;
        answer.unwrap_or_else(|_| Err(Failure::late()))
    }

    /// Whether a server is the one that serves, as far as is known without asking.
    pub(crate) fn is_current(&self, at: &Address) -> bool {
        match &*self.form {
            Form::Server(..) => true,
            Form::Sentinels(sentinels) => sentinels.named().is_none_or(|named| named == *at),
            Form::Cluster(cluster) => cluster.serves(at, self.slot()),
        }
    }

    /// Learns from an answer who else serves.
    pub(crate) fn redirect(&self, error: &RedisError) {
        if let Form::Cluster(cluster) = &*self.form {
            cluster.redirect(error);
        }
    }

    fn slot(&self) -> Option<u16> {
        self.tag.as_ref().map(|(_, slot)| *slot)
    }
}

impl Form {
    fn login(&self) -> &Login {
        match self {
            Self::Server(login, _) => login,
            Self::Sentinels(sentinels) => &sentinels.login,
            Self::Cluster(cluster) => &cluster.login,
        }
    }

    /// Refuses a server of another kind than the settings say, where it may be asked.
    fn suits(&self, server: &Server) -> Result<(), Failure> {
        let why = match (self, &*server.mode) {
            (Self::Server(..) | Self::Sentinels(_), "cluster") => {
                "the server is a node of a Redis Cluster; name its nodes in broker.redis.cluster"
            }
            (_, "sentinel") => {
                "the server is a sentinel; name it in broker.redis.sentinel, with the primary's name"
            }
            _ => return Ok(()),
        };
        Err(Failure::Refused(why.into()))
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match *self.form {
            Form::Server(..) => "server",
            Form::Sentinels(_) => "sentinels",
            Form::Cluster(_) => "cluster",
        };
        write!(f, "Home({form}, {:?})", self.tag)
    }
}
