//! Who the users of a root directory are: /etc/passwd and /etc/group.

use std::path::{Path, PathBuf};

use super::root::Root;

/// Most of an account file that is read.
const LIMIT: u64 = 4 << 20;

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
    /// Its home directory.
    pub home: PathBuf,
    /// Its shell; empty means /bin/sh.
    pub shell: String,
}

/// A line of /etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its gid.
    pub gid: u32,
    /// The names of its members.
    pub members: Vec<String>,
}

/// The accounts and groups of one root.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The users.
    pub users: Vec<Account>,
    /// The groups.
    pub groups: Vec<Group>,
    /// /etc/shells, when it is there.
    pub shells: Option<Vec<String>>,
}

/// Shells that do not allow a login, even if /etc/shells lists them.
const NO_LOGIN: &[&str] = &["nologin", "false", "sync", "true"];

impl Accounts {
    /// Those of a root; none where the files cannot be read.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let text = |path| root.text(Path::new(path), LIMIT).ok();
        Self {
            users: users(&text("/etc/passwd").unwrap_or_default()),
            groups: groups(&text("/etc/group").unwrap_or_default()),
            shells: text("/etc/shells").map(|text| text.lines().map(|line| line.trim().to_owned()).collect()),
        }
    }

    /// The account of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Account> {
        self.users.iter().find(|account| account.name == name)
    }

    /// The first account with this uid.
    #[must_use]
    pub fn with_uid(&self, uid: u32) -> Option<&Account> {
        self.users.iter().find(|account| account.uid == uid)
    }

    /// Account and shell of somebody who can log in under this uid.
    #[must_use]
    pub fn login(&self, uid: u32) -> Option<(&Account, &str)> {
        self.users.iter().filter(|account| account.uid == uid).find_map(|account| Some((account, self.shell(account)?)))
    }

    /// The shell that an account gives a person, if any.
    fn shell<'a>(&self, account: &'a Account) -> Option<&'a str> {
        // passwd(5): an empty field means /bin/sh.
        let shell = if account.shell.is_empty() { "/bin/sh" } else { &account.shell };
        let refuses = shell.rsplit('/').next().is_some_and(|name| NO_LOGIN.contains(&name));
        let listed = self.shells.as_ref().is_none_or(|shells| shells.iter().any(|line| line == shell));
        (!refuses && listed).then_some(shell)
    }

    /// The groups of a uid: its accounts' own, and those that list them.
    #[must_use]
    pub fn groups_of(&self, uid: u32) -> Vec<&Group> {
        let accounts: Vec<_> = self.users.iter().filter(|account| account.uid == uid).collect();
        let belongs = |group: &&Group| {
            accounts.iter().any(|account| account.gid == group.gid || group.members.contains(&account.name))
        };
        self.groups.iter().filter(belongs).collect()
    }

    /// The name of a group, or its number.
    #[must_use]
    pub fn group_name(&self, gid: u32) -> String {
        let group = self.groups.iter().find(|group| group.gid == gid);
        group.map_or_else(|| gid.to_string(), |group| group.name.clone())
    }
}

fn users(text: &str) -> Vec<Account> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            Some(Account {
                name: (*fields.first()?).to_owned(),
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: PathBuf::from(fields.get(5)?),
                shell: (*fields.get(6)?).to_owned(),
            })
        })
        .collect()
}

fn groups(text: &str) -> Vec<Group> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let members = fields.get(3)?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some(Group { name: (*fields.first()?).to_owned(), gid: fields.get(2)?.parse().ok()?, members })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_account_is_left_out() {
        let found = users("root:x:0:0:root:/root:/bin/bash\nbroken\n\npi:x:1000:1000:,,,:/home/pi:\nx:x:y:0::/:\n");
        assert_eq!(found.iter().map(|account| account.uid).collect::<Vec<_>>(), [0, 1000]);
        assert_eq!(found[1].home, Path::new("/home/pi"));
    }

    #[test]
    fn groups_are_an_accounts_own_and_those_that_list_it() {
        let accounts = Accounts {
            users: users("pi:x:1000:1000::/home/pi:/bin/sh\n"),
            groups: groups("pi:x:1000:\nsudo:x:27:root,pi\ndocker:x:999:rasp\nempty:x:1:\n"),
            shells: None,
        };
        let names: Vec<_> = accounts.groups_of(1000).iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["pi", "sudo"]);
        assert_eq!((accounts.group_name(27).as_str(), accounts.group_name(5).as_str()), ("sudo", "5"));
    }

    #[test]
    fn nobody_logs_in_with_a_shell_that_refuses_or_that_is_not_listed() {
        let shells = Some(vec!["/bin/sh".to_owned(), "/bin/bash".into(), "/usr/sbin/nologin".into()]);
        let can = |shell: &str, shells: &Option<Vec<String>>| {
            let users = users(&format!("a:x:7:7::/:{shell}\n"));
            Accounts { users, groups: Vec::new(), shells: shells.clone() }.login(7).is_some()
        };
        assert!(can("", &shells) && can("/bin/bash", &shells) && can("/bin/zsh", &None));
        assert!(!can("/usr/sbin/nologin", &shells) && !can("/bin/zsh", &shells) && !can("/bin/false", &None));
    }
}
